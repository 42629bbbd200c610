//! What can be set of the FCM channel.

use std::fmt;
use std::time::Duration;

use url::Url;

use peal_common::settings::{FcmSettings, Secret, secret};

use super::service_account::ServiceAccount;
use crate::channels::ConfigError;
use crate::channels::http::{self as shared, Authorities};

const ACCOUNT: &str = "channels.fcm.service_account";

/// How pushes are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Who sends.
    pub(super) account: ServiceAccount,
    /// Where access tokens are asked for.
    pub(super) token_url: Url,
    /// Where pushes are sent to: `messages:send` of the project.
    pub(super) endpoint: Url,
    /// Trusted beside the usual authorities.
    pub(super) authorities: Authorities,
    /// Whether Firebase only checks messages.
    pub(super) validate_only: bool,
    /// How long a push may take, an access token included. At most 20 s, see [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no service account or it can't be one, no project is named, a URL is none, or a
    /// file can't be read.
    pub fn from_settings(settings: &FcmSettings) -> Result<Self, ConfigError> {
        let json = secret(
            "channels.fcm.service_account_file",
            settings.service_account.as_ref(),
            settings.service_account_file.as_deref(),
        )?;
        let account = ServiceAccount::parse(json.as_ref().map_or("", Secret::expose))
            .map_err(|advice| ConfigError::invalid(ACCOUNT, advice))?;
        let project = settings.project_id.as_deref().or(account.project_id.as_deref()).unwrap_or_default();
        let endpoint = endpoint(&settings.base_url, project)?;
        let token_url = match &settings.token_url {
            Some(url) => shared::base_url("channels.fcm.token_url", url)?,
            None => shared::base_url(ACCOUNT, &account.token_uri)
                .map_err(|_| ConfigError::invalid(ACCOUNT, "its token_uri is no URL"))?,
        };
        Ok(Options {
            token_url,
            endpoint,
            authorities: shared::authorities("channels.fcm.tls_ca_file", settings.tls_ca_file.as_deref())?,
            validate_only: settings.validate_only,
            timeout: Duration::from_secs(settings.timeout_seconds),
            account,
        })
    }
}

/// `<base>/v1/projects/<project>/messages:send`. A project is named by its id, which some very old ones begin with a
/// domain and a colon, or by its number.
fn endpoint(base: &str, project: &str) -> Result<Url, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte);
    if project.is_empty() || project.starts_with('.') || !project.bytes().all(plain) {
        return Err(ConfigError::invalid(
            "channels.fcm.project_id",
            "write the Firebase project's id, such as shop-1042, since the service account names none",
        ));
    }
    let mut url = shared::base_url("channels.fcm.base_url", base)?;
    shared::add_path(&mut url, ["v1", "projects", project, "messages:send"]);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = include_str!("../../../tests/keys/rsa-2048.pem");

    fn account() -> Value {
        json!({
            "type": "service_account",
            "project_id": "shop-1042",
            "private_key_id": "0123abcd",
            "private_key": KEY,
            "client_email": "peal@shop-1042.iam.gserviceaccount.com",
            "client_id": "1042",
            "token_uri": "https://oauth2.googleapis.com/token",
        })
    }

    fn settings(account: &str) -> FcmSettings {
        FcmSettings {
            service_account: Some(account.to_owned().into()),
            service_account_file: None,
            project_id: None,
            base_url: "https://fcm.googleapis.com".to_owned(),
            token_url: None,
            tls_ca_file: None,
            validate_only: false,
            timeout_seconds: 15,
            rate_per_second: 10_000,
        }
    }

    fn refused(settings: &FcmSettings) -> String {
        let error = Options::from_settings(settings).unwrap_err();
        format!("{error} {error:?}")
    }

    #[test]
    fn the_endpoints_are_the_accounts_own_unless_others_are_named() {
        let own = Options::from_settings(&settings(&account().to_string())).unwrap();
        let send = "/v1/projects/shop-1042/messages:send";
        assert_eq!(own.endpoint.as_str(), format!("https://fcm.googleapis.com{send}"));
        assert_eq!(own.token_url.as_str(), "https://oauth2.googleapis.com/token");
        let others = FcmSettings {
            project_id: Some("example.com:shop".to_owned()),
            base_url: "http://127.0.0.1:9/fcm/".to_owned(),
            token_url: Some("http://127.0.0.1:9/token".to_owned()),
            ..settings(&account().to_string())
        };
        let others = Options::from_settings(&others).unwrap();
        assert_eq!(
            others.endpoint.as_str(),
            "http://127.0.0.1:9/fcm/v1/projects/example.com:shop/messages:send"
        );
        assert_eq!(others.token_url.as_str(), "http://127.0.0.1:9/token");
        assert_eq!(others.account.token_uri, "https://oauth2.googleapis.com/token");
    }

    #[test]
    fn the_account_may_be_in_a_file_and_need_not_say_more_than_needed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json!({"private_key": KEY, "client_email": "a@b"}).to_string()).unwrap();
        let settings = FcmSettings {
            service_account: None,
            service_account_file: Some(file.path().to_owned()),
            project_id: Some("104210421042".to_owned()),
            ..settings("")
        };
        let options = Options::from_settings(&settings).unwrap();
        assert_eq!(options.token_url.as_str(), "https://oauth2.googleapis.com/token");
        let gone = FcmSettings { service_account_file: Some("/nowhere/firebase.json".into()), ..settings };
        assert!(refused(&gone).contains("channels.fcm.service_account_file"));
    }

    #[test]
    fn bad_settings_are_refused_by_name_and_nothing_secret_is_shown() {
        let with = |field: &str, value: Value| {
            let mut account = account();
            account[field] = value;
            settings(&account.to_string())
        };
        let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let good = settings(&account().to_string());
        let url = |text: &str| Some(text.to_owned());
        let cases = [
            (FcmSettings { service_account: None, ..good.clone() }, "channels.fcm.service_account: write"),
            (settings(""), "channels.fcm.service_account: write"),
            (settings(KEY), "channels.fcm.service_account: write"),
            (with("private_key_id", json!({"SECRET": 1})), "channels.fcm.service_account: write"),
            (with("type", json!("authorized_user")), "type is service_account"),
            (with("private_key", Value::Null), "private_key is no RSA key"),
            (with("private_key", json!("SECRET")), "private_key is no RSA key"),
            (with("private_key", json!(elliptic)), "private_key is no RSA key"),
            (with("client_email", json!("")), "client_email is missing"),
            (with("token_uri", json!("SECRET")), "channels.fcm.service_account: its token_uri is no URL"),
            (with("project_id", Value::Null), "channels.fcm.project_id: write"),
            (FcmSettings { project_id: url("a/b"), ..good.clone() }, "channels.fcm.project_id: write"),
            (FcmSettings { project_id: url(".."), ..good.clone() }, "channels.fcm.project_id: write"),
            (FcmSettings { base_url: "fcm".to_owned(), ..good.clone() }, "channels.fcm.base_url: write"),
            (FcmSettings { token_url: url("data:x"), ..good.clone() }, "channels.fcm.token_url: write"),
            (
                FcmSettings { tls_ca_file: Some("/nowhere/ca.pem".into()), ..good.clone() },
                "channels.fcm.tls_ca_file: /nowhere/ca.pem",
            ),
        ];
        for (settings, expected) in cases {
            let shown = refused(&settings);
            assert!(shown.contains(expected), "{shown}");
            assert!(!shown.contains("SECRET") && !shown.contains("MII"), "{shown}");
        }
        let options = Options::from_settings(&good).unwrap();
        let shown = format!("{good:?} {options:?} {:?}", options.account);
        assert!(!shown.contains("MII") && !shown.contains("gserviceaccount"), "{shown}");
    }
}
