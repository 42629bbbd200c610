//! The encryption of a message for one subscription (RFC 8291), in the content coding `aes128gcm` (RFC 8188).

use aes_gcm::aead::{Aead, KeyInit, Nonce};
use aes_gcm::{Aes128Gcm, Key};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hkdf::Hkdf;
use p256::{PublicKey, SecretKey};
use peal_common::recipient::SubscriptionKeys;
use peal_common::vapid::VapidKey;
use sha2::Sha256;

/// The record size that is announced: more than the one record that is sent (RFC 8291 §4).
const RECORD_SIZE: u32 = 4096;
/// Marks the last record (RFC 8188 §2).
const LAST_RECORD: u8 = 2;
/// RFC 8188 §2.1.
const SALT_BYTES: usize = 16;
/// RFC 8291 §3.2.
const AUTH_BYTES: usize = 16;
/// Base64url as browsers give it; some libraries add padding.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys of a subscription are not what RFC 8291 §2 describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subscription's keys are no P-256 point and 16 bytes, both in base64url")]
pub(super) struct InvalidKeys;

/// What a message is encrypted for.
pub(super) struct Receiver {
    public: PublicKey,
    auth: [u8; AUTH_BYTES],
}

impl Receiver {
    /// Reads a subscription's keys.
    pub(super) fn parse(keys: &SubscriptionKeys) -> Result<Self, InvalidKeys> {
        let point = BASE64URL.decode(&keys.p256dh).map_err(|_| InvalidKeys)?;
        let auth = BASE64URL.decode(&keys.auth).map_err(|_| InvalidKeys)?;
        Ok(Receiver {
            public: PublicKey::from_sec1_bytes(&point).map_err(|_| InvalidKeys)?,
            auth: auth.try_into().map_err(|_| InvalidKeys)?,
        })
    }

    /// Encrypts a message with a key pair and a salt of its own. `None` when it is longer than one record holds.
    pub(super) fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_with(plain, &ephemeral(), rand::random())
    }

    fn encrypt_with(&self, plain: &[u8], own: &SecretKey, salt: [u8; SALT_BYTES]) -> Option<Vec<u8>> {
        let own_public = own.public_key().to_sec1_bytes();
        let shared = own.diffie_hellman(&self.public);
        let mut secret = [0; 32];
        let info = [b"WebPush: info\0", &*self.public.to_sec1_bytes(), &*own_public].concat();
        expand(&self.auth, shared.raw_secret_bytes(), &info, &mut secret)?;
        let (mut key, mut nonce) = ([0; 16], [0; 12]);
        expand(&salt, &secret, b"Content-Encoding: aes128gcm\0", &mut key)?;
        expand(&salt, &secret, b"Content-Encoding: nonce\0", &mut nonce)?;

        let record = [plain, &[LAST_RECORD]].concat();
        let cipher = Aes128Gcm::new(&Key::<Aes128Gcm>::from(key));
        let sealed = cipher.encrypt(&Nonce::<Aes128Gcm>::from(nonce), record.as_slice()).ok()?;
        if sealed.len() > RECORD_SIZE as usize {
            return None;
        }
        let id_length = u8::try_from(own_public.len()).ok()?;
        Some([&salt[..], &RECORD_SIZE.to_be_bytes(), &[id_length], &own_public, &sealed].concat())
    }
}

/// HKDF with SHA-256 (RFC 5869), both steps.
fn expand(salt: &[u8], secret: &[u8], info: &[u8], key: &mut [u8]) -> Option<()> {
    Hkdf::<Sha256>::new(Some(salt), secret).expand(info, key).ok()
}

/// A key pair for one message.
fn ephemeral() -> SecretKey {
    VapidKey::generate().secret_key().clone()
}

#[cfg(test)]
mod tests {
    use peal_common::template::MAX_WEBPUSH_BYTES;

    use super::*;

    const PUBLIC: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    fn receiver(p256dh: &str, auth: &str) -> Result<Receiver, InvalidKeys> {
        Receiver::parse(&SubscriptionKeys { p256dh: p256dh.to_owned(), auth: auth.to_owned() })
    }

    /// RFC 8291 §5 and appendix A.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let own = BASE64URL.decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw").unwrap();
        let salt = BASE64URL.decode("DGv6ra1nlYgDCS1FRnbzlw").unwrap().try_into().unwrap();
        let encrypted = receiver(PUBLIC, AUTH).unwrap().encrypt_with(
            b"When I grow up, I want to be a watermelon",
            &SecretKey::from_slice(&own).unwrap(),
            salt,
        );
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS\
                        6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(BASE64URL.encode(encrypted.unwrap()).trim_end_matches('='), expected);
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        assert!(receiver(&format!("{PUBLIC}="), &format!("{AUTH}==")).is_ok(), "padded");
        for (p256dh, auth) in [("", AUTH), ("AAAA", AUTH), (PUBLIC, ""), (PUBLIC, "AAAA"), (PUBLIC, "å")] {
            assert!(receiver(p256dh, auth).is_err(), "{p256dh} {auth}");
        }
        // Not on the curve.
        let point = BASE64URL.encode([&[4_u8][..], &[1; 64]].concat());
        assert!(receiver(&point, AUTH).is_err());
    }

    #[test]
    fn the_longest_message_fills_what_push_services_take() {
        let receiver = receiver(PUBLIC, AUTH).unwrap();
        // RFC 8030 §7.2: at least 4,096 bytes are taken.
        assert_eq!(receiver.encrypt(&[b'x'; MAX_WEBPUSH_BYTES]).unwrap().len(), 4096);
        assert_ne!(receiver.encrypt(b"x"), receiver.encrypt(b"x"), "each has its own key");
        assert_eq!(receiver.encrypt(&[b'x'; 5_000]), None);
    }
}
