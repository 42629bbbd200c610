//! The keys of the region, as they stand in the mirror, with their secrets opened once and kept.
//!
//! A change of any key makes what is kept stale (see [`Mirror::generation`]), so that a revocation is in force as soon
//! as the mirror has it. Comparing takes the same time whatever is presented.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use hmac::digest::Output;
use jiff::Timestamp;
use peal_common::id::AppKey;
use peal_common::key::ApiKey;
use peal_common::seal::Sealer;
use peal_common::state::{Kind, RecordKey};
use peal_nats::keys::open_secrets;
use peal_nats::mirror::{Mirror, NotReady};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::limit::Limiter;
use super::{AuthError, Caller, Principal};

/// How many keys are kept; when there are more, all are read again.
const KEPT: usize = 10_000;

/// Looks keys up and checks secrets.
pub struct Keyring {
    mirror: Mirror,
    sealer: Arc<Sealer>,
    /// Requests a second of a key that says nothing else.
    default_rate: u32,
    entries: RwLock<HashMap<Box<str>, Arc<Entry>>>,
}

/// A key that is kept.
pub(super) struct Entry {
    generation: u64,
    caller: Caller,
    revoked: bool,
    secrets: Vec<Zeroizing<String>>,
    digests: Vec<Output<Sha256>>,
}

impl Keyring {
    /// A keyring over the keys in `mirror`.
    #[must_use]
    pub fn new(mirror: Mirror, sealer: Arc<Sealer>, default_rate: u32) -> Self {
        Keyring { mirror, sealer, default_rate, entries: RwLock::default() }
    }

    /// Who has this key and secret.
    ///
    /// # Errors
    /// [`AuthError::Refused`] for a wrong secret, and for a key that is unknown, revoked or expired at `now`;
    /// [`AuthError::NotReady`] while keys can't be looked up.
    pub fn check_secret(&self, key: &str, secret: &str, now: Timestamp) -> Result<Caller, AuthError> {
        let presented = Sha256::digest(secret.as_bytes());
        let entry = self.usable(key, now)?;
        let mut right = subtle::Choice::from(0);
        for digest in &entry.digests {
            right |= digest.as_slice().ct_eq(presented.as_slice());
        }
        if bool::from(right) { Ok(entry.caller.clone()) } else { Err(AuthError::Refused) }
    }

    /// A key that may be used at `now`.
    pub(super) fn usable(&self, key: &str, now: Timestamp) -> Result<Arc<Entry>, AuthError> {
        let entry = self.find(key)?.ok_or(AuthError::Refused)?;
        let expired = entry.caller.grant.expires_at.is_some_and(|at| at <= now);
        if entry.revoked || expired { Err(AuthError::Refused) } else { Ok(entry) }
    }

    fn find(&self, key: &str) -> Result<Option<Arc<Entry>>, NotReady> {
        if !self.mirror.is_ready() {
            return Err(NotReady("it is being filled from JetStream"));
        }
        // Asked before the record is read: a change in between makes the copy stale at once.
        let generation = self.mirror.generation(Kind::Key);
        let kept = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        if let Some(entry) = &kept
            && entry.generation == generation
        {
            return Ok(kept);
        }
        let Ok(name) = key.parse::<AppKey>() else { return Ok(None) };
        let record = self.mirror.get(&RecordKey::api_key(&name))?;
        let Some(found) = record.and_then(|record| ApiKey::read(&name, &record)) else { return Ok(None) };
        let entry = Arc::new(self.entry(found, generation, kept.as_deref()));
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= KEPT && !entries.contains_key(key) {
            entries.clear();
        }
        entries.insert(key.into(), Arc::clone(&entry));
        Ok(Some(entry))
    }

    fn entry(&self, key: ApiKey, generation: u64, before: Option<&Entry>) -> Entry {
        let secrets = open_secrets(&key, &self.sealer);
        let digests = secrets.iter().map(|secret| Sha256::digest(secret.as_bytes())).collect();
        let rate = key.grant.rate_limit_per_second.unwrap_or(self.default_rate);
        // What a key has used of its limit outlives a change of some key.
        let limiter = match before.map(|before| &before.caller.limiter) {
            Some(limiter) if limiter.rate() == rate => Arc::clone(limiter),
            _ => Arc::new(Limiter::new(rate)),
        };
        let principal = Principal { key: key.key, app: key.grant.app.clone(), grant: key.grant, limiter };
        Entry { generation, caller: Caller(Arc::new(principal)), revoked: key.revoked, secrets, digests }
    }
}

impl Entry {
    /// Who it is, once the signature is right.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The live secrets.
    pub(super) fn secrets(&self) -> &[Zeroizing<String>] {
        &self.secrets
    }
}
