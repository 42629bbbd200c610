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
    Ok(report(&update).into_iter().collect())
}

/// `None` for an update that is not about the bot itself (Bot API, `ChatMember`).
fn report(update: &Value) -> Option<Report> {
    let change = &update["my_chat_member"];
    let member = &change["new_chat_member"];
    let blocked = match member["status"].as_str()? {
        "kicked" | "left" => true,
        // What is restricted need not be there any more.
        "restricted" => member["is_member"] == false,
        "member" | "administrator" | "creator" => false,
        _ => return None,
    };
    let chat = change["chat"]["id"].as_i64()?;
    Some(Report::Chat { chat: chat.to_string(), blocked, at: seconds(&change["date"]) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::callbacks::in_words;

    /// All kinds of `ChatMember`.
    #[test]
    fn whoever_removes_the_bot_is_not_written_to() {
        for (member, meaning) in [
            (json!({"status": "creator"}), "4711 lifted"),
            (json!({"status": "administrator"}), "4711 lifted"),
            (json!({"status": "member"}), "4711 lifted"),
            (json!({"status": "restricted", "is_member": true}), "4711 lifted"),
            (json!({"status": "restricted", "is_member": false}), "4711 suppressed"),
            (json!({"status": "left"}), "4711 suppressed"),
            (json!({"status": "kicked", "until_date": 0}), "4711 suppressed"),
            (json!({"status": "new"}), ""),
            (json!({}), ""),
        ] {
            let change =
                json!({"chat": {"id": 4711, "type": "private"}, "date": 1, "new_chat_member": member});
            let of = |kind: &str| in_words(report(&json!({"update_id": 1, kind: change})));
            assert_eq!(of("my_chat_member"), meaning, "{member}");
            assert_eq!(of("chat_member"), "", "that is somebody else");
        }
        for other in ["message", "edited_message", "callback_query", "inline_query"] {
            assert_eq!(report(&json!({"update_id": 1, other: {"chat": {"id": 4711}}})), None, "{other}");
        }
        let nameless = json!({"update_id": 1, "my_chat_member": {"new_chat_member": {"status": "kicked"}}});
        assert_eq!(report(&nameless), None);
    }
}
