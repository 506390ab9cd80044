//! What `crosspoint` says when it runs without a configuration.

use crosspoint_api::Control;
use crosspoint_kernel::supervise::ReloadReport;

/// Prints how to use the built-in configuration, on standard output.
pub(super) fn print(control: Option<&Control>, report: &ReloadReport) {
    // A closed standard output is no reason to stop serving.
    let _ = crate::print(&text(control, report));
}

fn text(control: Option<&Control>, report: &ReloadReport) -> String {
    let failed = report.components.iter().find_map(|(_, _, why)| why.as_deref());
    let control = match control {
        Some(control) => format!("crosspoint ctl status   (socket {})", control.path().display()),
        None => "none: name a socket with `crosspoint run --control PATH`".to_owned(),
    };
    let state = match failed {
        None => "SOCKS4, SOCKS4a, SOCKS5 and HTTP, straight out".to_owned(),
        Some(why) => format!("NOT LISTENING YET: {why}"),
    };
    format!(
        "No configuration was named and there is no config.json here: serving the built-in one.\n\
         \n\
         \x20 proxy    127.0.0.1:2080   {state}\n\
         \x20 try it   curl -x socks5h://127.0.0.1:2080 http://example.org/\n\
         \x20 control  {control}\n\
         \x20 yours    write config.json here (sing-box format), then `crosspoint ctl reload`,\n\
         \x20          or `crosspoint run -c FILE`; `crosspoint schema` tells what may stand in it\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_type_next() {
        let text = text(None, &ReloadReport::default());
        assert!(text.contains("curl -x socks5h://127.0.0.1:2080") && text.contains("--control"));
    }
}
