//! Twilio's status callbacks (Messaging, "Track the Message Status of Outbound Messages"; "Validating Signatures").

use peal_common::event::EventType;
use peal_common::receipt::Reference;
use peal_common::settings::Secret;

use super::{Posted, Refused, Report, field, signature};

/// Where the dispatcher put the reference: in the query of the address that it named to Twilio.
const REFERENCE: &str = "ref";

pub(super) fn read(keys: &[Secret], posted: &Posted<'_>) -> Result<Vec<Report>, Refused> {
    let form = posted.form();
    let given = posted.header("x-twilio-signature").unwrap_or_default();
    if !signature::of_form(keys, &posted.url, &form, given) {
        return Err(Refused::Signature);
    }
    if field(&form, "MessageStatus").is_none() {
        return Err(Refused::Malformed);
    }
    let query: Vec<_> =
        form_urlencoded::parse(posted.query.unwrap_or_default().as_bytes()).into_owned().collect();
    // A callback that was set up elsewhere, for messages that Peal did not send.
    let Some(Ok(reference)) = field(&query, REFERENCE).map(str::parse) else { return Ok(Vec::new()) };
    Ok(report(reference, &form).into_iter().collect())
}

/// `None` for a status that changes nothing (Messages resource, "Message Status Values").
fn report(reference: Reference, form: &[(String, String)]) -> Option<Report> {
    let status = field(form, "MessageStatus")?;
    let code = field(form, "ErrorCode").and_then(|code| code.parse::<u32>().ok());
    let step = match status {
        "delivered" => EventType::Delivered,
        "undelivered" | "failed" | "canceled" => EventType::Bounced,
        "read" => EventType::Opened,
        _ => return None,
    };
    let bounced = step == EventType::Bounced;
    let reason = bounced.then(|| code.map_or_else(|| status.to_owned(), |code| format!("twilio_{code}")));
    let to = field(form, "To").unwrap_or_default();
    let is_dead = bounced && code.is_some_and(is_dead);
    let passes = bounced && code.is_some_and(passes);
    Some(Report::Delivery {
        reference,
        step: Some(step),
        at: None,
        dead: reason.clone().filter(|_| is_dead).map(|reason| (to.to_owned(), reason)),
        reason,
        passes,
        provider_id: field(form, "MessageSid").map(str::to_owned),
    })
}

/// Whether nothing will ever arrive there (Twilio, "Error and Warning Dictionary"): no such number, no mobile number, opted
/// out, unknown to its carrier, a landline.
const fn is_dead(code: u32) -> bool {
    matches!(code, 21211 | 21610 | 21614 | 21635 | 30005 | 30006)
}

/// Whether it may arrive later (the same): Twilio's queue for the sender was full, the handset is off or out of reach.
const fn passes(code: u32) -> bool {
    matches!(code, 21611 | 30001 | 30003)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callbacks::in_words;

    fn meaning(status: &str, code: Option<u32>) -> String {
        let reference = "eu.shop.order-1.0123456789abcdef0123456789abcdef".parse().unwrap();
        let code = code.map(|code| code.to_string()).unwrap_or_default();
        let form =
            [("MessageSid", "SM1"), ("To", "+821012345678"), ("MessageStatus", status), ("ErrorCode", &code)];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned()));
        in_words(report(reference, &form))
    }

    /// All of "Message Status Values".
    #[test]
    fn statuses_mean_what_the_reference_says() {
        for (status, expected) in [
            ("accepted", ""),
            ("scheduled", ""),
            ("queued", ""),
            ("sending", ""),
            ("sent", ""),
            ("delivered", "delivered"),
            ("partially_delivered", ""),
            ("undelivered", "bounced undelivered"),
            ("failed", "bounced failed"),
            ("canceled", "bounced canceled"),
            ("read", "opened"),
            ("receiving", ""),
            ("received", ""),
            ("", ""),
        ] {
            assert_eq!(meaning(status, None), expected, "{status}");
        }
    }

    /// The codes of messages in the "Error and Warning Dictionary".
    #[test]
    fn codes_mean_what_the_dictionary_says() {
        for (codes, then) in [
            // No number, opted out, no mobile number, a landline, unknown to its carrier, a landline or out of reach for good.
            (&[21211, 21610, 21614, 21635, 30005, 30006][..], " suppressed"),
            // The sender's queue is full, here and there; the handset is off.
            (&[21611, 30001, 30003], " again"),
            // Where it may be sent to, its sender, the account; blocked, filtered, unknown; a part is missing, too dear, not
            // registered, too late.
            (&[21408, 21606, 21608, 30002, 30004, 30007, 30008, 30009, 30010, 30034, 30036], ""),
        ] {
            for code in codes {
                for status in ["undelivered", "failed"] {
                    assert_eq!(
                        meaning(status, Some(*code)),
                        format!("bounced twilio_{code}{then}"),
                        "{status}"
                    );
                }
                assert_eq!(
                    meaning("delivered", Some(*code)),
                    "delivered",
                    "a code counts for what did not arrive"
                );
                assert_eq!(meaning("sent", Some(*code)), "");
            }
        }
    }
}
