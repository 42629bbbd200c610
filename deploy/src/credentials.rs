//! The file `.peal/credentials`: where the gateway of `peal up` is and which key it made, for the commands that follow.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rand::Rng as _;
use serde::{Deserialize, Serialize};

/// Random bytes in a password.
const PASSWORD_BYTES: usize = 18;

/// The name of the file in the folder of `peal up`.
pub const FILE: &str = "credentials";

/// Address and key pair of a gateway. The secret is not shown in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The gateway, such as `http://127.0.0.1:8080`.
    pub url: String,
    /// The app that the key belongs to.
    pub app: String,
    /// The public half of the key, `pk_…`.
    pub key: String,
    /// Its secret, `sk_…`.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the file. `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read or holds something else.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map(Some).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "the credentials file cannot be read; delete it")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file so that only its owner can read it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let note =
            "# Written by `peal up`: what `peal send` and `peal dead-letters` use. Keep it to yourself.\n";
        write_private(path, &format!("{note}{text}"))
    }
}

/// Writes a file that only its owner can read, in one step: whoever looks sees the old or the new content.
///
/// # Errors
/// When it can't be written.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // A file left over from an interrupted write may have other permissions.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// A password in a file that only its owner can read: the one that stands there, else a new random one.
///
/// # Errors
/// When it can't be written.
pub fn make_password(file: &Path) -> io::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(password) => return Ok(password.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0_u8; PASSWORD_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(file, &password)?;
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn credentials_are_read_back_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(Credentials::read(&path).unwrap(), None);
        let credentials = Credentials {
            url: "http://127.0.0.1:1".to_owned(),
            app: "demo".to_owned(),
            key: "pk_1".to_owned(),
            secret: "sk_\"2".to_owned(),
        };
        credentials.write(&path).unwrap();
        credentials.write(&path).unwrap();
        assert_eq!(Credentials::read(&path).unwrap(), Some(credentials.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{credentials:?}").contains("sk_"));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Credentials::read(&path).is_err());
    }
}
