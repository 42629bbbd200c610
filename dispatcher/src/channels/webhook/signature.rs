//! Signatures to the Standard Webhooks specification: `v1,<base64 of HMAC-SHA256 over id.timestamp.body>`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use peal_common::id::AppId;
use peal_common::settings::{WebhookSettings, secret};

use crate::channels::ConfigError;

/// What a secret starts with in its text form.
const PREFIX: &str = "whsec_";
/// The lengths of a secret in bytes (Standard Webhooks, "Signature scheme").
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Apps whose prepared keys are kept. Each takes about 200 bytes; beyond this the table starts afresh.
const MAX_CACHED_APPS: usize = 10_000;

/// A text that is no signing secret. The message says what one looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write whsec_ followed by 24 to 64 random bytes in base64")]
pub struct SigningSecretError;

/// A secret shared with the receivers of webhooks. Never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

impl SigningSecret {
    /// A secret of 24 to 64 bytes.
    ///
    /// # Errors
    /// [`SigningSecretError`] when there are fewer or more.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SigningSecretError> {
        if SECRET_BYTES.contains(&bytes.len()) {
            Ok(SigningSecret(Zeroizing::new(bytes.to_vec())))
        } else {
            Err(SigningSecretError)
        }
    }

    /// Reads the text form, `whsec_…`.
    ///
    /// # Errors
    /// [`SigningSecretError`] when it is anything else.
    pub fn parse(text: &str) -> Result<Self, SigningSecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SigningSecretError)?.trim_end_matches('=');
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(encoded).map_err(|_| SigningSecretError)?);
        SigningSecret::from_bytes(&bytes)
    }

    /// The text form, to hand over to a receiver.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", STANDARD.encode(self.0.as_slice())))
    }
}

/// Gives an app's secret.
type PerApp = dyn Fn(&AppId) -> Result<SigningSecret, SigningSecretError> + Send + Sync;

/// Where the secrets of an app come from.
pub enum Secrets {
    /// The same for every app: the current one and, while it is being replaced, its predecessor.
    Fixed(Vec<SigningSecret>),
    /// One per app, from this function. It is asked once for each app.
    PerApp(Box<PerApp>),
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Those that are the same for every app.
    pub(in crate::channels) fn fixed(&self) -> &[SigningSecret] {
        match self {
            Secrets::Fixed(secrets) => secrets,
            Secrets::PerApp(_) => &[],
        }
    }

    /// The secrets that the settings give, else one per app from `per_app`.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings' secret is none or its file can't be read.
    pub fn from_settings(
        settings: &WebhookSettings,
        per_app: impl Fn(&AppId) -> Result<SigningSecret, SigningSecretError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let given = secret(
            "channels.webhook.secret_file",
            settings.secret.as_ref(),
            settings.secret_file.as_deref(),
        )?;
        let Some(given) = given else { return Ok(Secrets::PerApp(Box::new(per_app))) };
        let secrets: Vec<SigningSecret> = given
            .expose()
            .split_whitespace()
            .map(SigningSecret::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| ConfigError::invalid("channels.webhook.secret", error.to_string()))?;
        if secrets.is_empty() {
            return Err(ConfigError::invalid("channels.webhook.secret", SigningSecretError.to_string()));
        }
        Ok(Secrets::Fixed(secrets))
    }
}

/// Signs with prepared keys.
#[derive(Clone)]
pub(super) struct Signer(Arc<[Hmac<Sha256>]>);

impl Signer {
    fn new(secrets: &[SigningSecret]) -> Self {
        Signer(secrets.iter().map(prepare).collect())
    }

    /// The value of the `webhook-signature` header: one signature per secret. `timestamp` is in seconds.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        // "v1," and 44 characters of base64, and the space between two.
        let mut header = String::with_capacity(self.0.len() * 48);
        for key in self.0.iter() {
            let mut mac = key.clone();
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                mac.update(part);
            }
            if !header.is_empty() {
                header.push(' ');
            }
            header.push_str("v1,");
            STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
        }
        header
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn prepare(secret: &SigningSecret) -> Hmac<Sha256> {
    Hmac::new_from_slice(&secret.0).expect("HMAC takes keys of every length")
}

/// The signers of all apps, each prepared once.
pub(super) enum Signers {
    Fixed(Signer),
    PerApp { secret: Box<PerApp>, known: RwLock<HashMap<AppId, Signer>> },
}

impl fmt::Debug for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signers(…)")
    }
}

impl Signers {
    pub(super) fn new(secrets: Secrets) -> Self {
        match secrets {
            Secrets::Fixed(secrets) => Signers::Fixed(Signer::new(&secrets)),
            Secrets::PerApp(secret) => Signers::PerApp { secret, known: RwLock::default() },
        }
    }

    /// The signer of an app.
    ///
    /// # Errors
    /// [`SigningSecretError`] when what was given for the app is no secret.
    pub(super) fn of(&self, app: &AppId) -> Result<Signer, SigningSecretError> {
        let (secret, known) = match self {
            Signers::Fixed(signer) => return Ok(signer.clone()),
            Signers::PerApp { secret, known } => (secret, known),
        };
        if let Some(signer) = known.read().unwrap_or_else(PoisonError::into_inner).get(app) {
            return Ok(signer.clone());
        }
        let signer = Signer::new(&[secret(app)?]);
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CACHED_APPS {
            known.clear();
        }
        known.insert(app.clone(), signer.clone());
        Ok(signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    const EXAMPLE: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_published_example_is_signed_as_published() {
        let signer = Signer::new(&[SigningSecret::parse(EXAMPLE).unwrap()]);
        assert_eq!(
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn secrets_have_a_prefix_and_a_length() {
        assert_eq!(SigningSecret::parse(EXAMPLE).unwrap().to_text().as_str(), EXAMPLE);
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!"] {
            assert_eq!(SigningSecret::parse(bad).unwrap_err(), SigningSecretError, "{bad:?}");
        }
        assert!(SigningSecret::from_bytes(&[0; 65]).is_err());
        assert!(!format!("{:?}", SigningSecret::parse(EXAMPLE).unwrap()).contains("MfKQ"));
    }

    #[test]
    fn each_app_has_its_own_signer_which_is_made_once() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = asked.clone();
        let signers = Signers::new(Secrets::PerApp(Box::new(move |app| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            SigningSecret::from_bytes(format!("{:0>32}", app.as_str()).as_bytes())
        })));
        let (shop, bank) = ("shop".parse().unwrap(), "bank".parse().unwrap());
        let signed = |app| signers.of(app).unwrap().sign("id", "1", b"{}");
        assert_eq!(signed(&shop), signed(&shop));
        assert_ne!(signed(&shop), signed(&bank));
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}
