//! The request that the settings describe.

use reqwest::Request;
use url::Url;

use super::Options;
use super::template::{Escape, Values};
use crate::channels::Message;
use crate::channels::sms::text::Checked;

/// The request for one message. `None` when a message makes no URL of it, which [`Options`] has ruled out.
pub(super) fn request(message: &Message<'_>, checked: &Checked<'_>, options: &Options) -> Option<Request> {
    let reference = message.reference().to_string();
    let values = Values {
        to: checked.to,
        text: checked.text,
        from: &options.from,
        id: message.delivery.as_str(),
        reference: &reference,
    };
    let url = Url::parse(&options.url.render(&values, Escape::Percent)).ok()?;
    let mut request = Request::new(options.method.clone(), url);
    *request.headers_mut() = options.headers.clone();
    if let Some(body) = &options.body {
        *request.body_mut() = Some(body.template.render(&values, body.escape).into());
    }
    Some(request)
}
