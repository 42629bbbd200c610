//! JSON Web Tokens (RFC 7519) in the compact form of RFC 7515 §7.1, with which dispatchers sign in to providers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use serde_json::Value;

/// A token signed with ES256: the signature is both numbers, 32 bytes each (RFC 7518 §3.4), not their DER form.
pub(crate) fn es256(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let signed = signing_input(header, claims);
    let signature: Signature = key.sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

/// A token signed with RS256 (RFC 7518 §3.3). `None` when the machine has no random numbers, with which the signature
/// is made without telling the key by the time that it takes.
pub(crate) fn rs256(key: &KeyPair, header: &Value, claims: &Value) -> Option<String> {
    let signed = signing_input(header, claims);
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// What is signed (RFC 7515 §5.1). The signature follows after a dot.
pub(crate) fn signing_input(header: &Value, claims: &Value) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encoded(header), encoded(claims))
}
