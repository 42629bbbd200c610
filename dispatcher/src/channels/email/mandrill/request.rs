//! The body of `messages/send`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use peal_common::attachment::Attachment;

use super::Options;
use crate::channels::Message;
use crate::channels::email::compose::{self, ComposeError};

/// The body as JSON, which has the key in it: it is for the provider alone. Mailchimp takes most headers (`messages/send`,
/// `message.headers`), but its events do not repeat them: the reference to the delivery goes along as metadata that they do
/// repeat.
///
/// # Errors
/// The stable word for an e-mail that can't be written.
pub(super) fn body(message: &Message<'_>, options: &Options) -> Result<Vec<u8>, &'static str> {
    let head = compose::head(message).map_err(ComposeError::reason)?;
    let headers = compose::headers(message, &options.from).map_err(ComposeError::reason)?;
    let headers: Map<String, Value> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let mut mail = json!({
        "subject": head.subject,
        "from_email": options.from.email.to_string(),
        "to": [{"email": head.to.to_string(), "type": "to"}],
        "headers": headers,
        "metadata": {"peal_ref": message.reference().to_string()},
        "track_opens": options.track_opens,
        "track_clicks": options.track_clicks,
    });
    if let Some(name) = &options.from.name {
        mail["from_name"] = json!(name);
    }
    if let Some(html) = &message.rendered.html {
        mail["html"] = json!(html);
    }
    if !message.rendered.text.is_empty() || message.rendered.html.is_none() {
        mail["text"] = json!(message.rendered.text);
    }
    if let Some(subaccount) = &options.subaccount {
        mail["subaccount"] = json!(subaccount);
    }
    let attachments = compose::attachments(message).map_err(ComposeError::reason)?;
    let attachments = attachments.iter().map(File::of).collect();
    let whole = Whole { key: options.key.expose(), message: Mail { mail, attachments }, r#async: false };
    serde_json::to_vec(&whole).map_err(|_| ComposeError::Message.reason())
}

/// The body of the call.
#[derive(Serialize)]
struct Whole<'a> {
    key: &'a str,
    message: Mail<'a>,
    r#async: bool,
}

/// The e-mail with its files, which are written as they stand rather than copied first.
#[derive(Serialize)]
struct Mail<'a> {
    #[serde(flatten)]
    mail: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<File<'a>>,
}

/// A file as Mailchimp takes it (`messages/send`, `message.attachments`); an e-mail with everything may have 25 MB there.
#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    name: &'a str,
    content: &'a str,
}

impl<'a> File<'a> {
    fn of(attachment: &'a Attachment) -> Self {
        File { kind: &attachment.content_type, name: &attachment.filename, content: &attachment.content }
    }
}
