//! The webhooks of Mailchimp Transactional ("Track Message Activity with Webhooks"; "Authenticating webhook requests").

use peal_common::event::EventType;
use peal_common::settings::Secret;
use serde_json::Value;

use super::{Posted, Refused, Report, field, seconds, signature};

pub(super) fn read(keys: &[Secret], posted: &Posted<'_>) -> Result<Vec<Report>, Refused> {
    let form = posted.form();
    let given = posted.header("x-mandrill-signature").unwrap_or_default();
    if !signature::of_form(keys, &posted.url, &form, given) {
        return Err(Refused::Signature);
    }
    let events = field(&form, "mandrill_events").and_then(|json| serde_json::from_str(json).ok());
    let Some(Value::Array(events)) = events else { return Err(Refused::Malformed) };
    Ok(events.iter().filter_map(report).collect())
}

/// `None` for an event of an e-mail that Peal did not send, and for one that changes nothing.
fn report(event: &Value) -> Option<Report> {
    let message = &event["msg"];
    let reference = message["metadata"]["peal_ref"].as_str()?.parse().ok()?;
    let (step, reason, is_dead) = match event["event"].as_str()? {
        "delivered" => (Some(EventType::Delivered), None, false),
        "hard_bounce" => (Some(EventType::Bounced), Some("hard_bounce"), true),
        "soft_bounce" => (Some(EventType::Bounced), Some("soft_bounce"), false),
        "reject" => (Some(EventType::Bounced), Some("rejected"), false),
        "open" => (Some(EventType::Opened), None, false),
        "click" => (Some(EventType::Clicked), None, false),
        "spam" => (None, Some("complaint"), true),
        "unsub" => (None, Some("unsubscribed"), true),
        _ => return None,
    };
    let to = message["email"].as_str();
    Some(Report::Delivery {
        reference,
        step,
        at: seconds(&event["ts"]),
        reason: reason.map(str::to_owned),
        // Mandrill itself tries for days.
        passes: false,
        provider_id: message["_id"].as_str().map(str::to_owned),
        dead: to.zip(reason).filter(|_| is_dead).map(|(to, why)| (to.to_owned(), why.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::callbacks::in_words;

    /// All events of messages, and the others that a webhook may be set up for ("Webhooks, Event types").
    #[test]
    fn events_mean_what_the_reference_says() {
        for (event, meaning) in [
            ("send", ""),
            ("deferral", ""),
            ("delivered", "delivered"),
            ("hard_bounce", "bounced hard_bounce suppressed"),
            ("soft_bounce", "bounced soft_bounce"),
            ("reject", "bounced rejected"),
            ("open", "opened"),
            ("click", "clicked"),
            ("spam", "complaint suppressed"),
            ("unsub", "unsubscribed suppressed"),
            ("inbound", ""),
            ("", ""),
        ] {
            let mut posted = json!({"event": event, "ts": 1_795_464_000, "_id": "M1", "msg": {
                "_id": "M1", "email": "lee@example.com", "state": "sent",
                "metadata": {"peal_ref": "eu.shop.order-1.0123456789abcdef0123456789abcdef"}}});
            assert_eq!(in_words(report(&posted)), meaning, "{event}");
            posted["msg"]["metadata"] = json!([]);
            assert_eq!(report(&posted), None, "an e-mail of somebody else's");
        }
        let of_a_list = json!({"type": "blacklist", "action": "add", "ts": 1_795_464_000,
            "reject": {"reason": "hard-bounce", "email": "lee@example.com"}});
        assert_eq!(report(&of_a_list), None);
    }
}
