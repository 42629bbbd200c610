//! Updates of a Telegram bot (Bot API, `setWebhook` with `secret_token`, `ChatMemberUpdated`): who blocked it, and who
//! started it again.

use peal_common::settings::Secret;
use serde_json::Value;

use super::{Posted, Refused, Report, seconds, signature};

pub(super) fn read(keys: &[Secret], posted: &Posted<'_>) -> Result<Vec<Report>, Refused> {
    let given = posted.header("x-telegram-bot-api-secret-token").unwrap_or_default();
    if !signature::is_one_of(keys, given) {
        return Err(Refused::Signature);
    }
    let update: Value = serde_json::from_slice(posted.body).map_err(|_| Refused::Malformed)?;
    if !update["update_id"].is_i64() {
        return Err(Refused::Malformed);
    }
    let change = &update["my_chat_member"];
    let blocked = match change["new_chat_member"]["status"].as_str() {
        Some("kicked" | "left") => true,
        Some("member" | "administrator" | "restricted" | "creator") => false,
        _ => return Ok(Vec::new()),
    };
    let Some(chat) = change["chat"]["id"].as_i64() else { return Ok(Vec::new()) };
    Ok(vec![Report::Chat { chat: chat.to_string(), blocked, at: seconds(&change["date"]) }])
}
