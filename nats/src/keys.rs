//! Making, rotating and revoking API keys, for the gateway's API and for the `peal` command.
//!
//! A key is two texts: `pk_…` names it, `sk_…` is its secret. The secret is 32 random bytes, is told once, and stands in
//! the state sealed with the region's key: signed requests need it back, so a hash would not do.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use peal_common::clock::Stamp;
use peal_common::id::AppKey;
use peal_common::key::{ApiKey, Grant, LIVE_SECRETS, SealedSecret};
use peal_common::seal::{SealError, Sealer};
use peal_common::state::{Record, RecordKey};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::state::{StateWriter, WriteError, Written};

/// How the public half of a key begins.
pub const KEY_PREFIX: &str = "pk_";
/// How a secret begins.
pub const SECRET_PREFIX: &str = "sk_";
/// Random bytes in the name of a key: enough that two never meet.
const NAME_BYTES: usize = 15;
/// Random bytes in a secret.
const SECRET_BYTES: usize = 32;

/// Why a key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no such key")]
    Unknown,
    /// The key has been revoked, which is for good.
    #[error("the key has been revoked")]
    Revoked,
    /// The state can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The secret can't be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A secret that was just made: the only time that it is told.
pub struct NewSecret {
    /// The key as it stands now.
    pub key: ApiKey,
    /// Its new secret.
    pub secret: Zeroizing<String>,
    /// The write that made it.
    pub written: Written,
}

/// Changes keys. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    writer: StateWriter,
    sealer: Arc<Sealer>,
}

impl Keys {
    /// Changes keys through `writer`, with secrets sealed by `sealer`.
    #[must_use]
    pub fn new(writer: StateWriter, sealer: Arc<Sealer>) -> Self {
        Keys { writer, sealer }
    }

    /// Makes a key with one secret.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn create(
        &self,
        grant: Grant,
        rng: &mut (impl CryptoRng + Send),
    ) -> Result<NewSecret, KeyError> {
        let name = random_text(KEY_PREFIX, NAME_BYTES, rng);
        // The alphabet of base64url is part of that of ids, so this does not fail.
        let key: AppKey = name.parse().map_err(|_| SealError::BadKey)?;
        let record_key = RecordKey::api_key(&key);
        let (secret, sealed) = self.new_secret(&key, grant.created_at, rng)?;
        let key = ApiKey { key, grant, secrets: vec![sealed], revoked: false };
        let write = |record: &mut Record, stamp: &Stamp| {
            key.write(record, stamp);
            Ok::<_, KeyError>(())
        };
        let written = self.writer.update(&record_key, write).await?;
        Ok(NewSecret { key, secret, written })
    }

    /// Gives a key a second secret; of two that it has the older one stops working.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn rotate(
        &self,
        key: &AppKey,
        now: jiff::Timestamp,
        rng: &mut (impl CryptoRng + Send),
    ) -> Result<NewSecret, KeyError> {
        let (secret, sealed) = self.new_secret(key, now, rng)?;
        let mut rotated = None;
        let change = |record: &mut Record, stamp: &Stamp| {
            let mut found = ApiKey::read(key, record).ok_or(KeyError::Unknown)?;
            if found.revoked {
                return Err(KeyError::Revoked);
            }
            found.secrets.insert(0, sealed.clone());
            found.secrets.truncate(LIVE_SECRETS);
            found.write(record, stamp);
            rotated = Some(found);
            Ok(())
        };
        let written = self.writer.update(&RecordKey::api_key(key), change).await?;
        Ok(NewSecret { key: rotated.ok_or(KeyError::Unknown)?, secret, written })
    }

    /// Ends a key for good: no later write brings it back. Revoking twice does no harm.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn revoke(&self, key: &AppKey) -> Result<Written, KeyError> {
        let change = |record: &mut Record, stamp: &Stamp| {
            let mut found = ApiKey::read(key, record).ok_or(KeyError::Unknown)?;
            found.revoked = true;
            found.write(record, stamp);
            Ok(())
        };
        self.writer.update(&RecordKey::api_key(key), change).await
    }

    fn new_secret(
        &self,
        key: &AppKey,
        now: jiff::Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<(Zeroizing<String>, SealedSecret), SealError> {
        let secret = Zeroizing::new(random_text(SECRET_PREFIX, SECRET_BYTES, rng));
        let sealed = self.sealer.seal_secret(&secret, key.as_str(), rng)?;
        Ok((secret, SealedSecret { sealed, created_at: now }))
    }
}

/// Opens the live secrets of a key, newest first; one that can't be opened is left out and logged.
#[must_use]
pub fn open_secrets(key: &ApiKey, sealer: &Sealer) -> Vec<Zeroizing<String>> {
    let open = |secret: &SealedSecret| match sealer.open_secret(&secret.sealed, key.key.as_str()) {
        Ok(secret) => Some(secret),
        Err(error) => {
            tracing::error!(key = %key.key, %error, "a secret of this key cannot be opened");
            None
        }
    };
    key.secrets.iter().filter_map(open).collect()
}

fn random_text(prefix: &str, bytes: usize, rng: &mut impl CryptoRng) -> String {
    let mut random = Zeroizing::new(vec![0; bytes]);
    rng.fill_bytes(&mut random);
    let mut text = prefix.to_owned();
    URL_SAFE_NO_PAD.encode_string(random.as_slice(), &mut text);
    text
}
