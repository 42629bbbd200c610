//! Endpoints of recipients.

use peal_dispatcher::recording::Answer;

use super::{Dead, Later, Row, Wrong, after, answers, status};

pub(super) fn webhook() -> Vec<Row> {
    answers(
        "webhook",
        [
            (status(410), "http_410", Dead),
            (status(301), "redirect_refused", Wrong),
            (status(400), "http_400", Wrong),
            (status(401), "http_401", Wrong),
            (status(404), "http_404", Wrong),
            (status(422), "http_422", Wrong),
            (status(408), "http_408", Later(0)),
            (status(429), "http_429", Later(0)),
            (after(status(429), "2"), "http_429", Later(2)),
            (after(status(429), "300"), "http_429", Later(300)),
            (status(500), "http_500", Later(0)),
            (status(502), "http_502", Later(0)),
            (after(status(503), "2"), "http_503", Later(2)),
            (Answer::reset(), "connection_lost", Later(0)),
        ],
    )
}
