//! Files that the program creates.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

use crate::words;

/// Under `sudo`, gives a file that was just created to the user who asked, as the reference does.
pub(crate) fn give_to_invoker(path: impl AsRef<Path>) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
    {
        // A courtesy: the file works for root either way.
        let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
    }
}

/// Makes the directory if it is missing (flag `-D`), and goes there.
///
/// # Errors
/// In the reference's words.
pub(crate) fn change_directory(dir: &str) -> Result<(), String> {
    let path = Path::new(dir);
    if fs::metadata(path).is_err() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o777).create(path);
        // What went wrong shows in the next step as well, in the same words as in the reference.
        if made.is_ok() {
            give_to_invoker(path);
        }
    }
    std::env::set_current_dir(path).map_err(|error| format!("chdir {dir}: {}", words::os(&error)))
}

/// Writes a file with mode 0644, its directory included.
///
/// # Errors
/// In the reference's words.
pub(crate) fn write_with_parents(path: &Path, text: &str) -> Result<(), String> {
    let fail = |what: &str, path: &Path, error: io::Error| {
        format!("{what} {}: {}", path.display(), words::os(&error))
    };
    if let Some(parent) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
        fs::create_dir_all(parent).map_err(|error| fail("mkdir", parent, error))?;
        give_to_invoker(parent);
    }
    fs::write(path, text).map_err(|error| fail("open", path, error))?;
    give_to_invoker(path);
    Ok(())
}

/// The absolute form of a path, without following links, as the reference prints it.
pub(crate) fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

/// Replaces what a file holds, in place, so that its owner, mode and links stay.
///
/// # Errors
/// In the reference's words.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text)
        .map_err(|error| format!("open output: open {}: {}", path.display(), words::os(&error)))
}
