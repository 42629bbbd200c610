//! The body of `mail/send`.

use lettre::message::Mailbox;
use serde::Serialize;
use serde_json::{Map, Value, json};

use peal_common::attachment::Attachment;

use crate::channels::Message;
use crate::channels::email::compose::{self, ComposeError};

/// SendGrid takes no content without a character (SendGrid, "Mail Send", `content.value`).
const EMPTY: &str = "message_empty";

/// The body as JSON. SendGrid takes any header but those it writes itself ("Mail Send", `headers`), which Message-ID is not
/// among; but its events do not name that, so the reference to the delivery goes along as an argument that they repeat.
///
/// # Errors
/// The stable word for an e-mail that can't be written.
pub(super) fn body(
    message: &Message<'_>,
    from: &Mailbox,
    sandbox_mode: bool,
) -> Result<Vec<u8>, &'static str> {
    let head = compose::head(message).map_err(ComposeError::reason)?;
    // Plain text first: the last alternative is the one to be shown (RFC 2046 §5.1.4), and SendGrid insists on it.
    let parts = [
        ("text/plain", message.rendered.text.as_str()),
        ("text/html", message.rendered.html.as_deref().unwrap_or_default()),
    ];
    let content: Vec<Value> = parts
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(kind, value)| json!({"type": kind, "value": value}))
        .collect();
    if content.is_empty() {
        return Err(EMPTY);
    }
    let mut sender = json!({"email": from.email.to_string()});
    if let Some(name) = &from.name {
        sender["name"] = json!(name);
    }
    let headers = compose::headers(message, from).map_err(ComposeError::reason)?;
    let headers: Map<String, Value> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let mut body = json!({
        "personalizations": [{"to": [{"email": head.to.to_string()}]}],
        "from": sender,
        "subject": head.subject,
        "content": content,
        "headers": headers,
        "custom_args": {"peal_ref": message.reference().to_string()},
    });
    if sandbox_mode {
        body["mail_settings"] = json!({"sandbox_mode": {"enable": true}});
    }
    let attachments = compose::attachments(message).map_err(ComposeError::reason)?;
    let attachments = attachments.iter().map(File::of).collect();
    serde_json::to_vec(&Whole { body, attachments }).map_err(|_| ComposeError::Message.reason())
}

/// The body with its files, which are written as they stand rather than copied first.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    body: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<File<'a>>,
}

/// A file as SendGrid takes it ("Mail Send", `attachments`); an e-mail with everything may have 30 MB there.
#[derive(Serialize)]
struct File<'a> {
    content: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    filename: &'a str,
    disposition: &'static str,
}

impl<'a> File<'a> {
    fn of(attachment: &'a Attachment) -> Self {
        File {
            content: &attachment.content,
            kind: &attachment.content_type,
            filename: &attachment.filename,
            disposition: "attachment",
        }
    }
}
