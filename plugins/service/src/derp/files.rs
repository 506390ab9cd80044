//! The files of a DERP server: its key, as the reference and Go's `derper` keep it (`{"PrivateKey":"privkey:…"}`), and
//! the key of the region.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crosspoint_derp::key::{MeshKey, PrivateKey};
use crosspoint_kernel::BuildError;
use tracing::warn;

/// Longest file that is read.
const MAX_FILE: u64 = 64 << 10;

/// The path with `$NAME` and `${NAME}` filled in from the environment, as Go's `os.ExpandEnv` does for these forms.
pub(super) fn expand(path: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, tail)) = rest.split_once('$') {
        out.push_str(before);
        let (name, after) = match tail.strip_prefix('{').and_then(|tail| tail.split_once('}')) {
            Some(parts) => parts,
            None => {
                let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                tail.split_at(tail.find(is_end).unwrap_or(tail.len()))
            }
        };
        out.push_str(&std::env::var(name).unwrap_or_default());
        rest = after;
    }
    (out + rest).into()
}

/// The server's key: the one in the file, or a new one, which is put there.
///
/// # Errors
/// The file cannot be read or written, or holds none.
pub(super) fn server_key(path: &Path) -> Result<PrivateKey, BuildError> {
    let wrap = |error| BuildError::io(format_args!("config_path {}", path.display()), error);
    match read(path) {
        Ok(text) => {
            if let Ok(meta) = fs::metadata(path)
                && meta.permissions().mode() & 0o077 != 0
            {
                warn!("{} holds a private key and can be read by others", path.display());
            }
            parse(&text).map_err(|why| {
                BuildError::options(format_args!("config_path {}: {why}", path.display()))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = PrivateKey::generate().map_err(|error| wrap(io::Error::other(error)))?;
            write(path, &key).map_err(wrap)?;
            Ok(key)
        }
        Err(error) => Err(wrap(error)),
    }
}

/// The key in the text of such a file. Names in any case of letters, as Go reads them.
fn parse(text: &str) -> Result<PrivateKey, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let members = value.as_object().ok_or("no JSON object")?;
    let found = members.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("PrivateKey"));
    let key = found.and_then(|(_, key)| key.as_str()).ok_or("no PrivateKey")?;
    key.parse().map_err(|error| format!("PrivateKey: {error}"))
}

fn read(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if meta.len() > MAX_FILE {
        return Err(io::Error::other("the file is too long"));
    }
    fs::read_to_string(path)
}

/// Whole or not at all, for nobody else to read.
fn write(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let text = format!("{{\"PrivateKey\":\"{}\"}}", key.expose());
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // Two at the same time: the first one stays, and the other fails.
    let moved = written.and_then(|()| fs::hard_link(&fresh, path));
    fs::remove_file(&fresh)?;
    moved
}

/// The key of the region: the text in the options, or the contents of the file.
///
/// # Errors
/// It is none, or the file cannot be read.
pub(super) fn mesh_key(text: &str, path: &str) -> Result<Option<MeshKey>, BuildError> {
    const WRONG: &str = "key must contain exactly 64 hex digits";
    if !text.is_empty() {
        let wrong = || BuildError::options(format_args!("invalid mesh_psk: {WRONG}"));
        return MeshKey::parse(text).map(Some).ok_or_else(wrong);
    }
    if path.is_empty() {
        return Ok(None);
    }
    let text = read(Path::new(path))
        .map_err(|error| BuildError::io(format_args!("mesh_psk_file {path}"), error))?;
    // The reference takes no newline at the end; every editor makes one.
    let wrong = || BuildError::options(format_args!("invalid mesh_psk_path file: {WRONG}"));
    MeshKey::parse(text.trim_end_matches(['\r', '\n'])).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/derp.key");
        let key = server_key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(server_key(&path).unwrap().public(), key.public());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{{\"PrivateKey\":\"{}\"}}", key.expose()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(&path, text.replace("PrivateKey", "privatekey") + "\n").unwrap();
        assert_eq!(server_key(&path).unwrap().public(), key.public());
        for bad in ["", "[]", "{}", r#"{"PrivateKey":"privkey:00"}"#, r#"{"PrivateKey":1}"#] {
            fs::write(&path, bad).unwrap();
            let error = server_key(&path).unwrap_err().to_string();
            assert!(error.contains("config_path") && !error.contains("privkey:00"), "{error}");
        }
        assert!(server_key(dir.path()).is_err());
    }

    #[test]
    fn the_key_of_the_region_is_text_or_file() {
        let digits = "0f".repeat(32);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk");
        fs::write(&path, format!("{digits}\n")).unwrap();
        let file = path.to_str().unwrap();
        assert_eq!(mesh_key("", file).unwrap().unwrap().expose(), digits);
        assert_eq!(mesh_key(&digits, "/nowhere").unwrap().unwrap().expose(), digits);
        assert!(mesh_key("", "").unwrap().is_none());
        assert!(mesh_key("0F", "").is_err());
        assert!(mesh_key("", "/nowhere").is_err());
        fs::write(&path, "x").unwrap();
        assert!(mesh_key("", file).is_err());
    }

    #[test]
    fn variables_in_paths() {
        let home = std::env::var("HOME").unwrap_or_default();
        assert_eq!(expand("a/$HOME/${HOME}b$"), PathBuf::from(format!("a/{home}/{home}b")));
    }
}
