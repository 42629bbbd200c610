//! Twilio's status callbacks (Messaging, "Track the Message Status of Outbound Messages"; "Validating Signatures").

use peal_common::event::EventType;
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
    let status = field(&form, "MessageStatus").ok_or(Refused::Malformed)?;
    let query: Vec<_> =
        form_urlencoded::parse(posted.query.unwrap_or_default().as_bytes()).into_owned().collect();
    // A callback that was set up elsewhere, for messages that Peal did not send.
    let Some(Ok(reference)) = field(&query, REFERENCE).map(str::parse) else { return Ok(Vec::new()) };
    let code = field(&form, "ErrorCode").and_then(|code| code.parse::<u32>().ok());
    let step = match status {
        "delivered" => EventType::Delivered,
        "undelivered" | "failed" | "canceled" => EventType::Bounced,
        "read" => EventType::Opened,
        _ => return Ok(Vec::new()),
    };
    let bounced = step == EventType::Bounced;
    let reason = bounced.then(|| code.map_or_else(|| status.to_owned(), |code| format!("twilio_{code}")));
    let to = field(&form, "To").unwrap_or_default();
    let is_dead = bounced && code.is_some_and(is_dead);
    let passes = bounced && code.is_some_and(passes);
    Ok(vec![Report::Delivery {
        reference,
        step: Some(step),
        at: None,
        dead: reason.clone().filter(|_| is_dead).map(|reason| (to.to_owned(), reason)),
        reason,
        passes,
        provider_id: field(&form, "MessageSid").map(str::to_owned),
    }])
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
