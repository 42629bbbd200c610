//! JSON Web Tokens (RFC 7519) in the compact form of RFC 7515 §7.1, with which dispatchers sign in to providers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::Value;

/// A token signed with ES256: the signature is both numbers, 32 bytes each (RFC 7518 §3.4), not their DER form.
pub(crate) fn es256(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let signed = signing_input(header, claims);
    let signature: Signature = key.sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

/// What is signed (RFC 7515 §5.1). The signature follows after a dot.
pub(crate) fn signing_input(header: &Value, claims: &Value) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encoded(header), encoded(claims))
}
