//! The key that an application server is known by to browsers and push services (RFC 8292, VAPID).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::SecretKey;
use zeroize::Zeroizing;

/// A key of the curve P-256.
#[derive(Clone, PartialEq, Eq)]
pub struct VapidKey(SecretKey);

/// The text is no key. The message says what to write and does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write the VAPID private key, 32 bytes in base64url; `peal keys vapid` makes one")]
pub struct NoVapidKey;

impl fmt::Debug for VapidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VapidKey").field(&self.public()).finish()
    }
}

impl VapidKey {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        loop {
            // All but one of 2^32 numbers are keys.
            if let Ok(key) = SecretKey::from_slice(&rand::random::<[u8; 32]>()) {
                return VapidKey(key);
            }
        }
    }

    /// Reads a private key: base64url, with or without padding.
    ///
    /// # Errors
    /// [`NoVapidKey`] when it is none.
    pub fn parse(private: &str) -> Result<Self, NoVapidKey> {
        let bytes = URL_SAFE_NO_PAD.decode(private.trim().trim_end_matches('=')).map(Zeroizing::new);
        let key = SecretKey::from_slice(&bytes.map_err(|_| NoVapidKey)?);
        key.map(VapidKey).map_err(|_| NoVapidKey)
    }

    /// The private key, as settings take it: 32 bytes in base64url.
    #[must_use]
    pub fn private(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.to_bytes()))
    }

    /// The public key, as browsers take it for `applicationServerKey`: a point of 65 bytes in base64url.
    #[must_use]
    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key().to_sec1_bytes())
    }

    /// The key, for signatures.
    #[must_use]
    pub const fn secret_key(&self) -> &SecretKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_it_is_read() {
        let key = VapidKey::generate();
        let again = VapidKey::parse(&format!("{}=\n", key.private().as_str())).unwrap();
        assert_eq!((again.private(), again.public()), (key.private(), key.public()));
        assert_eq!(URL_SAFE_NO_PAD.decode(key.public()).unwrap().len(), 65);
        assert!(!format!("{key:?}").contains(key.private().as_str()));
        assert_ne!(VapidKey::generate().public(), key.public());
        for text in ["", "AAAA", "c2hvcnQ", "not a key", &"A".repeat(43)] {
            assert!(VapidKey::parse(text).is_err(), "{text}");
        }
    }
}
