//! What a push service's answer means.

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use peal_common::outcome::Outcome;

use crate::channels::outcomes::{address_dead, permanent, retry};
use crate::channels::retry_after;

/// The outcome of an answer. 201 means that the push service has the message (RFC 8030 §5), not the browser; 404 and 410
/// that the subscription is gone (§7.3).
pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    let reason = || format!("http_{}", status.as_u16());
    match status.as_u16() {
        200..=299 => Outcome::Sent { provider_id: None },
        300..=399 => permanent("redirect_refused"),
        404 | 410 => address_dead(reason()),
        413 => permanent("payload_too_large"),
        // 401 and 403: the push service does not take our key, be it for this subscription alone or for all.
        401 | 403 | 408 | 425 | 429 | 500.. => retry(reason(), retry_after::parse(headers, now)),
        _ => permanent(reason()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_status_has_its_outcome() {
        let now = Timestamp::UNIX_EPOCH;
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "17".parse().unwrap());
        let after = Some(Duration::from_secs(17));
        for code in 200..1000 {
            let reason = format!("http_{code}");
            let expected = match code {
                200..300 => Outcome::Sent { provider_id: None },
                300..400 => permanent("redirect_refused"),
                404 | 410 => address_dead(reason),
                413 => permanent("payload_too_large"),
                401 | 403 | 408 | 425 | 429 => retry(reason, after),
                400..500 => permanent(reason),
                _ => retry(reason, after),
            };
            assert_eq!(of_answer(StatusCode::from_u16(code).unwrap(), &headers, now), expected, "{code}");
        }
    }
}
