//! The body of `messages/send`.

use serde_json::{Map, Value, json};

use super::Options;
use crate::channels::Message;
use crate::channels::email::compose::{self, ComposeError};

/// The body as JSON, which has the key in it: it is for the provider alone. The reference to the delivery goes along as
/// metadata that Mailchimp's events repeat.
///
/// # Errors
/// The stable word for an e-mail that can't be written.
pub(super) fn body(message: &Message<'_>, options: &Options) -> Result<Vec<u8>, &'static str> {
    let head = compose::head(message).map_err(ComposeError::reason)?;
    let headers = compose::headers(message).map_err(ComposeError::reason)?;
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
    let body = json!({"key": options.key.expose(), "message": mail, "async": false});
    serde_json::to_vec(&body).map_err(|_| ComposeError::Message.reason())
}
