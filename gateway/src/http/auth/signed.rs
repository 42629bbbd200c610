//! Signed requests: `Authorization: PEAL-HMAC-SHA256 key=…,timestamp=…,nonce=…,signature=…`.
//!
//! The signature is HMAC-SHA-256 (RFC 2104), keyed with the bytes of the secret as it is written (`sk_…`), in base64,
//! over the lines
//!
//! ```text
//! METHOD
//! PATH                  as sent, percent-encoded, without the query
//! SORTED_QUERY          the query's parts as sent, sorted by their bytes, joined with & again
//! SHA256(body)          lower-case hexadecimal
//! timestamp             seconds since the Unix epoch, at most 5 minutes from our clock
//! nonce                 16 to 128 characters, never the same twice
//! ```
//!
//! without a line break after the last one.

use axum::body::Body;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::nonces::{MAX_SKEW, Use};
use super::{AuthError, Caller, Keyring, Nonces};
use crate::http::json::{body_bytes, limit_of};

/// The scheme's name.
pub(super) const SCHEME: &str = "PEAL-HMAC-SHA256";
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// What the header says.
pub(super) struct Credentials {
    key: String,
    timestamp: i64,
    nonce: String,
    signature: Vec<u8>,
}

impl Credentials {
    /// Reads what follows the scheme. `None` when a part is missing, stands there twice, or is malformed.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (mut key, mut timestamp, mut nonce, mut signature) = (None, None, None, None);
        for part in text.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let slot = match name {
                "key" => &mut key,
                "timestamp" => &mut timestamp,
                "nonce" => &mut nonce,
                "signature" => &mut signature,
                _ => return None,
            };
            if slot.replace(value.to_owned()).is_some() {
                return None;
            }
        }
        let nonce = nonce?;
        let plain = nonce.bytes().all(|byte| byte.is_ascii_graphic());
        if !NONCE_BYTES.contains(&nonce.len()) || !plain {
            return None;
        }
        let timestamp = timestamp?.parse().ok()?;
        let signature = STANDARD.decode(signature?).ok()?;
        Some(Credentials { key: key?, timestamp, nonce, signature })
    }
}

/// The text that is signed.
#[must_use]
pub fn canonical(method: &str, path: &str, query: &str, body: &[u8], timestamp: i64, nonce: &str) -> String {
    let mut parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    parts.sort_unstable();
    let query = parts.join("&");
    let digest = Sha256::digest(body);
    let mut hex = String::with_capacity(2 * digest.len());
    for byte in digest {
        for digit in [byte >> 4, byte & 0xf] {
            hex.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
    }
    format!("{method}\n{path}\n{query}\n{hex}\n{timestamp}\n{nonce}")
}

/// The signature of a text, in base64.
#[must_use]
pub fn sign(secret: &str, text: &str) -> String {
    STANDARD.encode(keyed(secret).chain_update(text.as_bytes()).finalize().into_bytes())
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn keyed(secret: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length")
}

/// Checks a signed request; its body, which had to be read for that, is put back.
pub(super) async fn check(
    keyring: &Keyring,
    nonces: &Nonces,
    credentials: Credentials,
    now: Timestamp,
    request: Request,
) -> Result<(Caller, Request), AuthError> {
    // Before the body is read: strangers don't get to send one.
    let entry = keyring.usable(&credentials.key, now)?;
    let limit = limit_of(request.uri().path());
    let (parts, body) = request.into_parts();
    let head = Request::from_parts(parts.clone(), body);
    let body = body_bytes(head, limit).await.map_err(|problem| AuthError::Body(Box::new(problem)))?;

    let Credentials { timestamp, nonce, signature, .. } = &credentials;
    let query = parts.uri.query().unwrap_or_default();
    let text = canonical(parts.method.as_str(), parts.uri.path(), query, &body, *timestamp, nonce);
    // Comparing takes the same time whatever the signature is; all live secrets are tried.
    let mut right = false;
    for secret in entry.secrets() {
        right |= keyed(secret).chain_update(text.as_bytes()).verify_slice(signature).is_ok();
    }
    if !right {
        return Err(AuthError::Refused);
    }
    let now = now.as_second();
    if (now.saturating_sub(*timestamp)).saturating_abs() > MAX_SKEW {
        return Err(AuthError::Stale);
    }
    // Only now: a wrong signature must not use up somebody's nonce.
    match nonces.take(&credentials.key, nonce, *timestamp, now) {
        Use::First => Ok((entry.caller().clone(), Request::from_parts(parts, Body::from(body)))),
        Use::Again => Err(AuthError::Replayed),
        Use::TooMany => Err(AuthError::TooManySigned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_documented_and_the_order_of_the_query_does_not_matter() {
        let text =
            canonical("GET", "/v1/recipients", "limit=5&after=a", b"", 1_764_547_200, "0123456789abcdef");
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected =
            format!("GET\n/v1/recipients\nafter=a&limit=5\n{digest}\n1764547200\n0123456789abcdef");
        assert_eq!(text, expected);
        let other =
            canonical("GET", "/v1/recipients", "after=a&limit=5", b"", 1_764_547_200, "0123456789abcdef");
        assert_eq!(text, other);
    }

    #[test]
    fn a_signature_is_the_one_that_other_programs_make() {
        // printf 'what do ya want for nothing?' | openssl dgst -sha256 -hmac Jefe -binary | base64 (RFC 4231 §4.3)
        assert_eq!(
            sign("Jefe", "what do ya want for nothing?"),
            "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn a_header_has_each_part_once() {
        let good = "key=pk_a,timestamp=1764547200,nonce=0123456789abcdef,signature=AAAA";
        assert_eq!(Credentials::read(good).unwrap().nonce, "0123456789abcdef");
        assert!(Credentials::read(&good.replace(',', ", ")).is_some());
        for bad in [
            "",
            "key=pk_a",
            &good.replace("key=pk_a,", ""),
            &format!("{good},key=pk_b"),
            &format!("{good},more=x"),
            &good.replace("0123456789abcdef", "short"),
            &good.replace("0123456789abcdef", &"x".repeat(129)),
            &good.replace("1764547200", "now"),
            &good.replace("AAAA", "!"),
        ] {
            assert!(Credentials::read(bad).is_none(), "{bad}");
        }
    }
}
