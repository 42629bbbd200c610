//! The key of a service account, in Google's JSON (Google Cloud, "Create and delete service account keys").

use std::fmt;
use std::sync::Arc;

use ring::rsa::KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use zeroize::Zeroize as _;

use peal_common::settings::Secret;

/// Where accounts whose JSON does not say it get their tokens (Google, "Using OAuth 2.0 for Server to Server
/// Applications").
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Who sends.
#[derive(Clone)]
pub(super) struct ServiceAccount {
    /// Signs what an access token is asked for with.
    pub(super) key: Arc<KeyPair>,
    pub(super) key_id: Option<String>,
    pub(super) email: String,
    /// The project that the account is of.
    pub(super) project_id: Option<String>,
    /// Who gives out tokens.
    pub(super) token_uri: String,
}

/// The part of the JSON that matters.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: Option<String>,
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<Secret>,
    client_email: Option<String>,
    token_uri: Option<String>,
}

impl PartialEq for ServiceAccount {
    fn eq(&self, other: &Self) -> bool {
        let ServiceAccount { key, key_id, email, project_id, token_uri } = self;
        // Of a key its public half tells which it is.
        key.public().as_ref() == other.key.public().as_ref()
            && (key_id, email, project_id, token_uri)
                == (&other.key_id, &other.email, &other.project_id, &other.token_uri)
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount").field("project_id", &self.project_id).finish_non_exhaustive()
    }
}

impl ServiceAccount {
    /// Reads the JSON.
    ///
    /// # Errors
    /// What to write. It repeats nothing of the JSON.
    pub(super) fn parse(json: &str) -> Result<Self, &'static str> {
        let file: File = serde_json::from_str(json)
            .map_err(|_| "write the JSON of a service account's key, as Google's console gives it")?;
        if file.kind.is_some_and(|kind| kind != "service_account") {
            return Err("write the JSON whose type is service_account; this one is of another type");
        }
        let email = file.client_email.filter(|email| !email.is_empty());
        let key = file.private_key.as_ref().and_then(|pem| signing_key(pem.expose()));
        Ok(ServiceAccount {
            key: Arc::new(key.ok_or("its private_key is no RSA key of 2,048 to 4,096 bits (PKCS#8, PEM)")?),
            key_id: file.private_key_id,
            email: email.ok_or("its client_email is missing")?,
            project_id: file.project_id,
            token_uri: file.token_uri.unwrap_or_else(|| TOKEN_URI.to_owned()),
        })
    }
}

/// An RSA key in PKCS#8 (RFC 5958) as PEM.
fn signing_key(pem: &str) -> Option<KeyPair> {
    let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let key = KeyPair::from_pkcs8(der.secret_pkcs8_der());
    der.zeroize();
    key.ok()
}
