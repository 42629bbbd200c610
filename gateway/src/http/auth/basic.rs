//! `Authorization: Basic base64(appKey:appSecret)` (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{AuthError, Caller, Keyring};

/// Room for a key of the longest kind and a secret.
const MAX_BYTES: usize = 512;

/// Checks what follows the word `Basic`.
pub(super) fn check(keyring: &Keyring, credentials: &str, now: Timestamp) -> Result<Caller, AuthError> {
    if credentials.len() > MAX_BYTES {
        return Err(AuthError::Refused);
    }
    let decoded = STANDARD.decode(credentials.trim()).map(Zeroizing::new).map_err(|_| AuthError::Refused)?;
    let text = std::str::from_utf8(&decoded).map_err(|_| AuthError::Refused)?;
    let (key, secret) = text.split_once(':').ok_or(AuthError::Refused)?;
    // A key may hold colons, a secret holds none; names of keys that Peal makes hold none either.
    keyring.check_secret(key, secret, now)
}
