//! What can be set of the APNs channel.

use std::fmt;
use std::time::Duration;

use http::header::HeaderValue;
use p256::ecdsa::SigningKey;
use p256::pkcs8::DecodePrivateKey as _;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use url::Url;
use zeroize::Zeroize as _;

use peal_common::settings::{ApnsSettings, secret};

use super::request;
use crate::channels::ConfigError;
use crate::channels::http::{self as shared, Authorities};

/// How long a key id and a team id are, in characters (Apple, "Establishing a token-based connection to APNs").
const ID_LENGTH: usize = 10;

/// How pushes are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// What signs the provider token.
    pub(super) key: SigningKey,
    pub(super) key_id: String,
    pub(super) team_id: String,
    /// The topic of contacts that bring none.
    pub(super) topic: Option<HeaderValue>,
    /// Below this each device has its path.
    pub(super) devices: Url,
    /// Trusted beside the usual authorities.
    pub(super) authorities: Authorities,
    /// How long a push may take. At most 20 s, see [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when the key is none, an id, the topic or the base URL can't be one, or a file can't be read.
    pub fn from_settings(settings: &ApnsSettings) -> Result<Self, ConfigError> {
        let key = secret("channels.apns.key_file", settings.key.as_ref(), settings.key_file.as_deref())?;
        let key = key.as_ref().and_then(|pem| signing_key(pem.expose())).ok_or_else(|| {
            ConfigError::invalid(
                "channels.apns.key",
                "write the content of the .p8 file from Apple, or key_file with its path",
            )
        })?;
        let topic = settings.topic.as_deref().map(|topic| {
            request::topic(topic).ok_or_else(|| {
                ConfigError::invalid("channels.apns.topic", "write a bundle id such as com.example.app")
            })
        });
        let mut devices = shared::base_url("channels.apns.base_url", &settings.base_url)?;
        shared::add_path(&mut devices, ["3", "device"]);
        Ok(Options {
            key,
            key_id: id("channels.apns.key_id", "the key's", &settings.key_id)?,
            team_id: id("channels.apns.team_id", "the team's", &settings.team_id)?,
            topic: topic.transpose()?,
            devices,
            authorities: shared::authorities("channels.apns.tls_ca_file", settings.tls_ca_file.as_deref())?,
            timeout: Duration::from_secs(settings.timeout_seconds),
        })
    }
}

/// The key of a .p8 file: PKCS#8 (RFC 5958) as PEM.
fn signing_key(pem: &str) -> Option<SigningKey> {
    let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let key = SigningKey::from_pkcs8_der(der.secret_pkcs8_der());
    der.zeroize();
    key.ok()
}

fn id(key: &'static str, whose: &str, text: &str) -> Result<String, ConfigError> {
    if text.len() != ID_LENGTH || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let advice = format!("write {whose} {ID_LENGTH} characters, as Apple's developer pages show them");
        return Err(ConfigError::invalid(key, advice));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

    use super::*;

    fn pem() -> String {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem()
    }

    fn settings() -> ApnsSettings {
        ApnsSettings {
            key: Some(pem().into()),
            key_file: None,
            key_id: "ABC123DEFG".to_owned(),
            team_id: "DEF123GHIJ".to_owned(),
            topic: Some("com.example.app".to_owned()),
            base_url: "https://api.push.apple.com".to_owned(),
            tls_ca_file: None,
            timeout_seconds: 15,
        }
    }

    #[test]
    fn devices_are_below_the_base() {
        let of = |base: &str| {
            let settings = ApnsSettings { base_url: base.to_owned(), ..settings() };
            Options::from_settings(&settings).unwrap().devices.to_string()
        };
        assert_eq!(of("https://api.push.apple.com"), "https://api.push.apple.com/3/device");
        assert_eq!(of("http://127.0.0.1:9/apns/"), "http://127.0.0.1:9/apns/3/device");
    }

    #[test]
    fn the_key_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("AuthKey.p8");
        let pem = pem();
        std::fs::write(&file, format!("{pem}\n")).unwrap();
        let from_file = ApnsSettings { key: None, key_file: Some(file), ..settings() };
        let given = ApnsSettings { key: Some(pem.into()), ..settings() };
        let keys = [given, from_file].map(|it| Options::from_settings(&it).unwrap().key.to_bytes());
        assert_eq!(keys[0], keys[1]);
    }

    #[test]
    fn bad_settings_are_refused_by_name_and_the_key_is_not_shown() {
        let refused = |bad: ApnsSettings| Options::from_settings(&bad).unwrap_err();
        let pem = pem();
        let body = pem.lines().nth(1).unwrap();
        let cut = pem.replace(&body[..40], "");
        let other_curve = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for key in [None, Some(""), Some("ABC"), Some(body), Some(&cut), Some(&other_curve)] {
            let error = refused(ApnsSettings { key: key.map(|key| key.to_owned().into()), ..settings() });
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("channels.apns.key: ") && !shown.contains(&body[40..60]), "{shown}");
        }
        let cases = [
            ("key_id", ApnsSettings { key_id: String::new(), ..settings() }),
            ("key_id", ApnsSettings { key_id: "ABC123DEF\n".to_owned(), ..settings() }),
            ("team_id", ApnsSettings { team_id: "DEF123GHIJK".to_owned(), ..settings() }),
            ("topic", ApnsSettings { topic: Some(String::new()), ..settings() }),
            ("topic", ApnsSettings { topic: Some("com.example app".to_owned()), ..settings() }),
            ("base_url", ApnsSettings { base_url: "api.push.apple.com".to_owned(), ..settings() }),
            ("tls_ca_file", ApnsSettings { tls_ca_file: Some("/nowhere".into()), ..settings() }),
        ];
        for (name, bad) in cases {
            let error = refused(bad).to_string();
            assert!(error.starts_with(&format!("settings: channels.apns.{name}: ")), "{error}");
        }
        let good = ApnsSettings { key: Some(pem.clone().into()), ..settings() };
        let shown = format!("{good:?} {:?}", Options::from_settings(&good).unwrap());
        assert!(!shown.contains(&body[40..60]), "{shown}");
    }
}
