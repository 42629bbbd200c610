//! Sealing of personal data at rest: a data key per recipient, wrapped by the region's key, and a keyed blind index.
//!
//! Erasing a recipient destroys its wrapped data key; what was sealed with it can never be opened again, wherever a
//! copy of it lies. AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce seals; HMAC-SHA-256 (RFC 2104) indexes.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Nonce, Payload};
use aes_gcm::{Aes256Gcm, Key};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::id::AppId;

/// Bytes in a key, of a region or of a recipient.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// Bytes of the blind index that are kept: enough that two addresses never meet by chance.
const INDEX_BYTES: usize = 16;

/// Why something could not be sealed or opened. Never says what was inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The region's key is not 32 bytes in base64.
    #[error("the region key must be 32 random bytes in base64; make one with `openssl rand -base64 32`")]
    BadKey,
    /// The sealed text is damaged, or was sealed with another key or for another place.
    #[error("sealed data cannot be opened with this key")]
    CannotOpen,
    /// The text is too long for the cipher.
    #[error("data is too large to seal")]
    TooLarge,
}

/// A recipient's data key, unwrapped. Its bytes are wiped when it is dropped.
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    /// A new random key.
    #[must_use]
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(bytes.as_mut());
        DataKey(bytes)
    }

    /// Seals `plain` for `place`, a text that must be given again to open it (so that sealed data can't be moved to
    /// another record). Returns base64.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] beyond the cipher's limit of 64 GiB.
    pub fn seal(&self, plain: &[u8], place: &str, rng: &mut impl CryptoRng) -> Result<String, SealError> {
        seal_with(&self.0, plain, place, rng)
    }

    /// Opens what [`DataKey::seal`] made.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] when the text is damaged or belongs to another key or place.
    pub fn open(&self, sealed: &str, place: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        open_with(&self.0, sealed, place)
    }
}

/// The data keys of one recipient: one, unless regions that could not hear of each other made the recipient at the same
/// time. Whatever one of them sealed opens.
#[derive(Debug)]
pub struct DataKeys {
    first: DataKey,
    others: Vec<DataKey>,
}

impl DataKeys {
    /// At least one key; what is sealed from now on is sealed with the first.
    #[must_use]
    pub const fn new(first: DataKey, others: Vec<DataKey>) -> Self {
        DataKeys { first, others }
    }

    /// Seals with the first key.
    ///
    /// # Errors
    /// As [`DataKey::seal`].
    pub fn seal(&self, plain: &[u8], place: &str, rng: &mut impl CryptoRng) -> Result<String, SealError> {
        self.first.seal(plain, place, rng)
    }

    /// Opens what one of the keys sealed.
    ///
    /// # Errors
    /// As [`DataKey::open`], when none of them did.
    pub fn open(&self, sealed: &str, place: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let with_first = self.first.open(sealed, place);
        self.others.iter().fold(with_first, |opened, key| opened.or_else(|_| key.open(sealed, place)))
    }
}

/// The region's keys, derived from the one secret that an operator provides.
pub struct Sealer {
    wrapping: Zeroizing<[u8; KEY_BYTES]>,
    indexing: Zeroizing<[u8; KEY_BYTES]>,
    signing: Zeroizing<[u8; KEY_BYTES]>,
    secrets: Zeroizing<[u8; KEY_BYTES]>,
    links: Zeroizing<[u8; KEY_BYTES]>,
    link_nonces: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// Takes the region's key as an operator writes it: 32 bytes in base64, surrounding white space ignored.
    ///
    /// # Errors
    /// [`SealError::BadKey`] when it is anything else.
    pub fn from_base64(text: &str) -> Result<Self, SealError> {
        let text = text.trim().trim_end_matches('=');
        let bytes = STANDARD_NO_PAD.decode(text).map(Zeroizing::new).map_err(|_| SealError::BadKey)?;
        let bytes: &[u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| SealError::BadKey)?;
        Ok(Sealer {
            wrapping: derive(bytes, b"peal wrapping key 1"),
            indexing: derive(bytes, b"peal blind index 1"),
            signing: derive(bytes, b"peal webhook signing 1"),
            secrets: derive(bytes, b"peal secrets 1"),
            links: derive(bytes, b"peal links 1"),
            link_nonces: derive(bytes, b"peal link nonces 1"),
        })
    }

    /// A new random region key in the form that [`Sealer::from_base64`] takes.
    #[must_use]
    pub fn generate_key(rng: &mut impl CryptoRng) -> String {
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        rng.fill_bytes(bytes.as_mut());
        STANDARD.encode(bytes.as_ref())
    }

    /// Wraps a data key for the record it belongs to.
    ///
    /// # Errors
    /// As [`DataKey::seal`].
    pub fn wrap(&self, key: &DataKey, place: &str, rng: &mut impl CryptoRng) -> Result<String, SealError> {
        seal_with(&self.wrapping, key.0.as_ref(), place, rng)
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] with another region's key or for another record.
    pub fn unwrap(&self, wrapped: &str, place: &str) -> Result<DataKey, SealError> {
        let bytes = open_with(&self.wrapping, wrapped, place)?;
        let bytes: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| SealError::CannotOpen)?;
        Ok(DataKey(Zeroizing::new(bytes)))
    }

    /// Seals a secret that belongs to no recipient, such as an API key's.
    ///
    /// # Errors
    /// As [`DataKey::seal`].
    pub fn seal_secret(
        &self,
        plain: &str,
        place: &str,
        rng: &mut impl CryptoRng,
    ) -> Result<String, SealError> {
        seal_with(&self.secrets, plain.as_bytes(), place, rng)
    }

    /// Opens what [`Sealer::seal_secret`] made.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] when it is damaged or belongs elsewhere.
    pub fn open_secret(&self, sealed: &str, place: &str) -> Result<Zeroizing<String>, SealError> {
        let bytes = open_with(&self.secrets, sealed, place)?;
        String::from_utf8(bytes.to_vec()).map(Zeroizing::new).map_err(|_| SealError::CannotOpen)
    }

    /// Seals what a link is for, as one word that is safe in a URL. The same text gives the same word, whoever makes it:
    /// its nonce is a keyed digest of it, so that no nonce serves two texts however many links there are.
    ///
    /// # Errors
    /// As [`DataKey::seal`].
    pub fn seal_link(&self, plain: &str, place: &str) -> Result<String, SealError> {
        let mut mac = keyed(&self.link_nonces);
        for part in [place, plain] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&mac.finalize().into_bytes()[..NONCE_BYTES]);
        Ok(URL_SAFE_NO_PAD.encode(encrypt(&self.links, nonce, plain.as_bytes(), place)?))
    }

    /// Opens what [`Sealer::seal_link`] made.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] when it is damaged, was made elsewhere, or is of another kind.
    pub fn open_link(&self, token: &str, place: &str) -> Result<String, SealError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| SealError::CannotOpen)?;
        let plain = decrypt(&self.links, &bytes, place)?;
        String::from_utf8(plain.to_vec()).map_err(|_| SealError::CannotOpen)
    }

    /// The secret that signs an app's webhooks when the settings give none, as Standard Webhooks writes it: `whsec_` and
    /// base64.
    #[must_use]
    pub fn webhook_secret(&self, app: &AppId) -> Zeroizing<String> {
        let secret = derive(&self.signing, app.as_str().as_bytes());
        Zeroizing::new(format!("whsec_{}", STANDARD.encode(secret.as_ref())))
    }

    /// The blind index of an address: tells whether two addresses are the same without saying what they are.
    #[must_use]
    pub fn blind_index(&self, app: &AppId, channel: Channel, address: &str) -> String {
        self.index([app.as_str(), channel.as_str(), address])
    }

    /// A digest that tells whether two texts are the same, to whoever has the key: nobody else can try texts out.
    #[must_use]
    pub fn keyed_digest(&self, text: &str) -> String {
        // No app has an empty name, so this is never the index of an address.
        self.index(["", "digest", text])
    }

    fn index(&self, parts: [&str; 3]) -> String {
        let mut mac = keyed(&self.indexing);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..INDEX_BYTES])
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn keyed(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn derive(key: &[u8; KEY_BYTES], purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut mac = keyed(key);
    mac.update(purpose);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn seal_with(
    key: &[u8; KEY_BYTES],
    plain: &[u8],
    place: &str,
    rng: &mut impl CryptoRng,
) -> Result<String, SealError> {
    let mut nonce = [0u8; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    encrypt(key, nonce, plain, place).map(|sealed| STANDARD_NO_PAD.encode(sealed))
}

fn open_with(key: &[u8; KEY_BYTES], sealed: &str, place: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_| SealError::CannotOpen)?;
    decrypt(key, &bytes, place)
}

/// The nonce and what was encrypted with it.
fn encrypt(
    key: &[u8; KEY_BYTES],
    nonce: [u8; NONCE_BYTES],
    plain: &[u8],
    place: &str,
) -> Result<Vec<u8>, SealError> {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key));
    let sealed = cipher
        .encrypt(&Nonce::<Aes256Gcm>::from(nonce), Payload { msg: plain, aad: place.as_bytes() })
        .map_err(|_| SealError::TooLarge)?;
    let mut out = Vec::with_capacity(NONCE_BYTES + sealed.len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Ok(out)
}

fn decrypt(key: &[u8; KEY_BYTES], bytes: &[u8], place: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, body) = bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::CannotOpen)?;
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| SealError::CannotOpen)?;
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key));
    cipher
        .decrypt(&Nonce::<Aes256Gcm>::from(nonce), Payload { msg: body, aad: place.as_bytes() })
        .map(Zeroizing::new)
        .map_err(|_| SealError::CannotOpen)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn sealer(seed: u64) -> (Sealer, StdRng) {
        let mut rng = StdRng::seed_from_u64(seed);
        let sealer = Sealer::from_base64(&Sealer::generate_key(&mut rng)).unwrap();
        (sealer, rng)
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_and_in_its_place() {
        let (sealer, mut rng) = sealer(1);
        let key = DataKey::generate(&mut rng);
        let sealed = key.seal(b"a@example.com", "recipient.shop.u", &mut rng).unwrap();
        assert!(!sealed.contains("example"));
        assert_eq!(key.open(&sealed, "recipient.shop.u").unwrap().as_slice(), b"a@example.com");
        assert_eq!(key.open(&sealed, "recipient.shop.v").unwrap_err(), SealError::CannotOpen);
        assert_eq!(
            DataKey::generate(&mut rng).open(&sealed, "recipient.shop.u").unwrap_err(),
            SealError::CannotOpen
        );

        let wrapped = sealer.wrap(&key, "p", &mut rng).unwrap();
        assert_eq!(
            sealer.unwrap(&wrapped, "p").unwrap().open(&sealed, "recipient.shop.u").unwrap().len(),
            13
        );
        assert!(sealer.unwrap(&wrapped, "q").is_err());
        for damaged in ["", "AAAA", "!", &wrapped[1..]] {
            assert_eq!(sealer.unwrap(damaged, "p").unwrap_err(), SealError::CannotOpen);
        }
    }

    #[test]
    fn the_blind_index_depends_on_app_channel_address_and_region_key() {
        let (sealer, _) = sealer(1);
        let (other, _) = self::sealer(2);
        let shop: AppId = "shop".parse().unwrap();
        let index = sealer.blind_index(&shop, Channel::Email, "a@example.com");
        assert_eq!(index.len(), 22);
        assert_eq!(index, sealer.blind_index(&shop, Channel::Email, "a@example.com"));
        assert_ne!(index, sealer.blind_index(&shop, Channel::Email, "b@example.com"));
        assert_ne!(index, sealer.blind_index(&shop, Channel::Webhook, "a@example.com"));
        assert_ne!(index, sealer.blind_index(&"bank".parse().unwrap(), Channel::Email, "a@example.com"));
        assert_ne!(index, other.blind_index(&shop, Channel::Email, "a@example.com"));
    }

    #[test]
    fn region_keys_that_are_not_32_bytes_are_refused() {
        for bad in ["", "c2hvcnQ=", "not base64 !", &"A".repeat(60)] {
            assert_eq!(Sealer::from_base64(bad).unwrap_err(), SealError::BadKey);
        }
    }
}
