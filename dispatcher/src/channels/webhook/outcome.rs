//! What an endpoint's answer means.

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use peal_common::outcome::Outcome;

use crate::channels::outcomes::{address_dead, permanent, retry};
use crate::channels::retry_after;

/// The outcome of an answer. 2xx is success and 410 means that the endpoint wants nothing any more (Standard Webhooks,
/// "Webhook endpoint operations"); 408, 425, 429 and 5xx may pass (RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4).
pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    let reason = || format!("http_{}", status.as_u16());
    match status.as_u16() {
        200..=299 => Outcome::Delivered { provider_id: None },
        300..=399 => permanent("redirect_refused"),
        410 => address_dead(reason()),
        408 | 425 | 429 | 500.. => retry(reason(), retry_after::parse(headers, now)),
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
            let status = StatusCode::from_u16(code).unwrap();
            let reason = format!("http_{code}");
            let expected = match code {
                200..300 => Outcome::Delivered { provider_id: None },
                300..400 => permanent("redirect_refused"),
                410 => address_dead(reason),
                408 | 425 | 429 => retry(reason, after),
                400..500 => permanent(reason),
                _ => retry(reason, after),
            };
            assert_eq!(of_answer(status, &headers, now), expected, "{code}");
        }
        assert_eq!(of_answer(StatusCode::BAD_GATEWAY, &HeaderMap::new(), now), retry("http_502", None));
    }
}
