//! `ctl`: asks and steers a running daemon over its control socket.

mod show;
mod table;

use std::{process::ExitCode, time::Duration};

use crosspoint_api::{
    Call, Client, ClientError, Response,
    protocol::{CountReply, GroupInfo, RestartReply},
    socket,
};
use serde_json::Value;

use crate::{
    Fatal,
    cli::{Ctl, Request},
    print,
};

/// Exit code when no daemon answers.
const UNREACHABLE: u8 = 2;

/// Asks one request and prints the answer.
pub(crate) fn run(args: Ctl) -> ExitCode {
    ask(args).unwrap_or_else(|fatal| {
        // Nothing of the daemon's log: this is a tool.
        eprintln!("crosspoint ctl: {}", fatal.message);
        ExitCode::from(fatal.code)
    })
}

fn ask(args: Ctl) -> Result<ExitCode, Fatal> {
    let paths = match args.control.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => vec![path],
        None => socket::candidates(),
    };
    let (call, patience) = call(&args.request);
    let answer = Client::connect(&paths).and_then(|mut client| client.call(call, patience));
    let response = answer.map_err(|error| match &error {
        ClientError::Unreachable(_) => Fatal::with_code(UNREACHABLE, error.to_string()),
        _ => Fatal::from(error.to_string()),
    })?;
    if args.json { json(&response) } else { human(&args.request, response) }
}

fn call(request: &Request) -> (Call, Duration) {
    let seconds = Duration::from_secs;
    match request {
        Request::Status => (Call::Status, seconds(20)),
        // Components may take their start deadline each.
        Request::Reload => (Call::Reload, seconds(300)),
        Request::Restart { component } => {
            (Call::Restart { component: component.clone() }, seconds(120))
        }
        Request::Connections => (Call::Connections, seconds(20)),
        Request::Close { id } => (Call::Close { id: *id }, seconds(20)),
        Request::Drain { timeout } => {
            let patience = Duration::from_millis(*timeout).saturating_add(seconds(20));
            (Call::Drain { timeout_ms: *timeout }, patience)
        }
        Request::Groups => (Call::Groups, seconds(20)),
        Request::Select { group, member } => {
            (Call::Select { group: group.clone(), member: member.clone() }, seconds(20))
        }
    }
}

/// The result itself; where there is none, the refusal.
fn json(response: &Response) -> Result<ExitCode, Fatal> {
    let value = match (&response.result, &response.error) {
        (Some(result), _) => result.clone(),
        (None, error) => serde_json::json!({ "error": error }),
    };
    print(&format!("{value:#}\n"))?;
    Ok(if response.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn human(request: &Request, response: Response) -> Result<ExitCode, Fatal> {
    let Response { ok, error, result, .. } = response;
    let Some(result) = result else {
        return Err(error.unwrap_or_else(|| "refused without a reason".to_owned()).into());
    };
    let text = match request {
        Request::Status => show::status(&read(result)?),
        Request::Reload => show::reload(&read(result)?),
        Request::Restart { component } => {
            let RestartReply { epoch } = read(result)?;
            if epoch == 0 {
                format!("{component} restarted\n")
            } else {
                format!("{component} restarted, epoch {epoch}\n")
            }
        }
        Request::Connections => show::connections(&read(result)?),
        Request::Close { id } => format!("connection {id} closed\n"),
        Request::Drain { .. } => {
            let CountReply { closed } = read(result)?;
            format!("drained, {closed} connections cut; the daemon ends\n")
        }
        Request::Groups => show::groups(&read(result)?),
        Request::Select { .. } => {
            let GroupInfo { tag, selected, .. } = read(result)?;
            format!("{tag} uses {}\n", selected.as_deref().unwrap_or("nothing"))
        }
    };
    print(&text)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read<T: for<'de> serde::Deserialize<'de>>(value: Value) -> Result<T, Fatal> {
    serde_json::from_value(value)
        .map_err(|error| format!("the daemon's answer makes no sense: {error}").into())
}
