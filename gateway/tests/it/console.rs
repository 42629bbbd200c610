//! The console: what its pages show, to whom, and what a browser makes of them.

use jiff::SignedDuration;
use peal_common::attachment::AttachmentSummary;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::envelope::{ENVELOPE_VERSION, Intake, SandboxMessage, Work};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::{AppId, DeliveryId, RecipientId};
use peal_common::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::harness::{APP, Answer, Client, Harness, eventually, region};
use crate::lookup::accepted;

const OPEN: &str = "[gateway]\nconsole_requires_key = false\n";
/// Every page, and the feed.
const PAGES: [&str; 5] =
    ["/console", "/console/feed", "/console/regions", "/console/sandbox", "/console/notifications/shop/n-1"];
const HOSTILE: &str = "<script>alert(1)</script>";
/// The same as the gateway writes it, and as the browser does.
const ESCAPED: &str = "&#60;script&#62;alert(1)&#60;/script&#62;";
const ESCAPED_IN_DOM: &str = "&lt;script&gt;alert(1)&lt;/script&gt;";

fn delivery(app: &AppId, id: &str, recipient: &RecipientId, channel: Channel) -> DeliveryId {
    DeliveryId::derive(app, &id.parse().unwrap(), recipient, channel, "c", 0)
}

/// An event of a delivery, some seconds ago.
async fn happened(harness: &Harness, app: &str, id: &str, channel: Channel, kind: EventType, ago: i64) {
    let app: AppId = app.parse().unwrap();
    let recipient: RecipientId = "u-1".parse().unwrap();
    let at = harness.clock.now() - SignedDuration::from_secs(ago);
    let mut event = Event::new(kind, at, app.clone(), id.parse().unwrap());
    event.channel = Some(channel);
    if kind == EventType::Planned {
        event.channel = None;
        event.deliveries = vec![PlannedDelivery {
            delivery: delivery(&app, id, &recipient, channel),
            recipient,
            channel,
            contact: "c".to_owned(),
        }];
    } else {
        event.delivery = Some(delivery(&app, id, &recipient, channel));
        event.recipient = Some(recipient);
        event.provider = Some(if channel == Channel::Email { "smtp" } else { "sandbox" }.to_owned());
        event.attempts = Some(if kind == EventType::Retried { 2 } else { 1 });
        event.reason = match kind {
            EventType::Retried => Some("provider_unavailable".to_owned()),
            EventType::DeadLettered => Some("attempts_exhausted".to_owned()),
            EventType::Suppressed => Some("recipient_preference".to_owned()),
            _ => None,
        };
    }
    let channel = event.channel;
    harness.publish(harness.subjects.event(kind.as_str(), channel, app.as_str()), &event).await;
}

async fn recorded(harness: &Harness, app: &str, id: &str, channel: Channel, address: &str, rendered: Value) {
    attached(harness, app, id, channel, address, rendered, Vec::new()).await;
}

async fn attached(
    harness: &Harness,
    app: &str,
    id: &str,
    channel: Channel,
    address: &str,
    rendered: Value,
    attachments: Vec<AttachmentSummary>,
) {
    let app: AppId = app.parse().unwrap();
    let recipient: RecipientId = "u-1".parse().unwrap();
    let message = SandboxMessage {
        v: ENVELOPE_VERSION,
        at: harness.clock.now(),
        delivery: delivery(&app, id, &recipient, channel),
        app,
        notification: id.parse().unwrap(),
        recipient,
        channel,
        address: address.to_owned(),
        rendered: serde_json::from_value(rendered).unwrap(),
        attachments,
    };
    harness.publish(harness.subjects.sandbox(channel), &message).await;
}

/// A region in which something goes on.
async fn busy() -> Harness {
    let harness = Harness::start_with(OPEN, Clock::System).await;
    let channels = [Channel::Email, Channel::Sms, Channel::Webpush, Channel::Telegram];
    for n in 0..14_i64 {
        let (id, channel) =
            (format!("order-{}-shipped", 1042 + n), channels[usize::try_from(n).unwrap() % 4]);
        let ago = 90 - n * 6;
        let mut notification = accepted(&harness, &id);
        notification.accepted_at = harness.clock.now() - SignedDuration::from_secs(ago + 1);
        let intake = Intake {
            v: ENVELOPE_VERSION,
            region: region().as_str().parse().unwrap(),
            state_seq: 0,
            fingerprint: "00".repeat(32),
            send_at: None,
            targets: Vec::new(),
            notification,
            takeover: None,
        };
        harness.publish(harness.subjects.intake(Priority::Normal, APP), &intake).await;
        happened(&harness, APP, &id, channel, EventType::Planned, ago).await;
        let then: &[EventType] = match n {
            3 => &[EventType::Suppressed],
            6 => &[EventType::Retried, EventType::Sent],
            9 => &[EventType::Retried, EventType::DeadLettered],
            12 | 13 => &[],
            n if n % 2 == 0 => &[EventType::Sent, EventType::Delivered],
            _ => &[EventType::Sent],
        };
        for (step, kind) in (1..).zip(then) {
            happened(&harness, APP, &id, channel, *kind, ago - step).await;
        }
        if then.is_empty() {
            let work = Work {
                v: ENVELOPE_VERSION,
                delivery: delivery(&APP.parse().unwrap(), &id, &"u-1".parse().unwrap(), channel),
                recipient: "u-1".parse().unwrap(),
                channel,
                contact: "c".to_owned(),
                state_seq: 0,
                attempts: 0,
                not_before: None,
                hops: 0,
                repeat: false,
                repeat_since: None,
                replays: 0,
                notification: accepted(&harness, &id),
            };
            harness.publish(harness.subjects.work(channel, Priority::Normal, APP), &work).await;
        }
    }
    recorded(
        &harness,
        APP,
        "order-1043-shipped",
        Channel::Sms,
        "+821012345678",
        json!({
            "text": "[Shop] Your parcel 1043 is on its way. It arrives on Tuesday between 14:00 and 16:00."
        }),
    )
    .await;
    recorded(&harness, APP, "order-1045-shipped", Channel::Telegram, "@kim_orders", json!({
        "text": "<b>Parcel 1045</b> is on its way.\nTrack it <a href=\"https://shop.example/t/1045\">here</a>."
    }))
    .await;
    recorded(&harness, APP, "order-1042-shipped", Channel::Email, "kim@example.com", json!({
        "subject": "Your order 1042 has been shipped",
        "text": "Hello Kim,\n\nyour order 1042 left our warehouse this morning.\n\nYour shop",
        "html": "<div style=\"max-width:480px\"><h2 style=\"color:#1d4ed8;margin:0 0 8px\">It is on its way</h2>\
            <p>Hello Kim,</p><p>your order <b>1042</b> left our warehouse this morning.</p>\
            <script>parent.document.title = 'owned'</script>\
            <p style=\"display:inline-block;background:#1d4ed8;color:#fff;padding:8px 16px;border-radius:6px\">\
            Track the parcel</p></div>"
    }))
    .await;
    recorded(&harness, APP, "order-1044-shipped", Channel::Webpush, "https://push.example/s/1", json!({
        "title": HOSTILE, "text": "Parcel 1044 is on its way.",
        "url": "https://shop.example/orders/1044",
        "buttons": [{"name": "Track", "url": "https://shop.example/t/1044"}, {"name": "Bad", "url": "javascript:alert(1)"}]
    }))
    .await;
    let anonymous = harness.anonymous();
    eventually("everything is folded and counted", || async {
        let page = anonymous.get("/console").await.text;
        page.contains("order-1055-shipped") && page.contains("<td>1</td>") && page.contains("dead lettered")
    })
    .await;
    harness
}

fn assert_restricted(answer: &Answer) {
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn the_pages_show_what_goes_on_and_escape_it() {
    let harness = Box::pin(busy()).await;
    let anonymous = harness.anonymous();
    let overview = anonymous.get("/console").await;
    overview.ok(200);
    assert_restricted(&overview);
    assert!(overview.text.contains(region().as_str()));
    for text in
        ["order-1042-shipped", "dead lettered", "provider unavailable", "recipient preference", "Ready"]
    {
        assert!(overview.text.contains(text), "{text}");
    }
    assert!(overview.text.contains(ESCAPED) && !overview.text.contains(HOSTILE));
    for address in ["kim@example.com", "+821012345678", "push.example"] {
        assert!(!overview.text.contains(address), "{address} stands outside of the outbox");
    }

    let outbox = anonymous.get("/console/sandbox").await;
    outbox.ok(200);
    assert_restricted(&outbox);
    assert!(outbox.header("content-security-policy").contains("script-src 'none'"));
    for text in
        ["kim@example.com", "+821012345678", "Your parcel 1043", "Your order 1042 has been shipped", ESCAPED]
    {
        assert!(outbox.text.contains(text), "{text}");
    }
    assert!(!outbox.text.contains("<script") && !outbox.text.contains("href=\"javascript:"));
    let (newest, oldest) = (outbox.text.find("Parcel 1044"), outbox.text.find("Your parcel 1043"));
    assert!(newest < oldest, "the latest comes first");

    let one = anonymous.get("/console/notifications/shop/order-1051-shipped").await;
    one.ok(200);
    assert_restricted(&one);
    for text in ["order-1051-shipped", "orders", "u-1", "attempts exhausted", "retried", "dead lettered"] {
        assert!(one.text.contains(text), "{text}");
    }
    let none = anonymous.get("/console/notifications/shop/none").await;
    assert_eq!((none.status, none.header("content-type")), (404, "text/html; charset=utf-8"));
    assert_restricted(&none);
}

#[tokio::test]
async fn the_outbox_names_what_would_have_been_attached() {
    let harness = Harness::start_with(OPEN, Clock::System).await;
    let rendered = json!({"subject": "Your invoice", "text": "It is attached."});
    let file = AttachmentSummary {
        filename: format!("{HOSTILE}.pdf"),
        content_type: "application/pdf".to_owned(),
        size: 1042,
    };
    attached(&harness, APP, "n-1", Channel::Email, "kim@example.com", rendered, vec![file]).await;
    let outbox = harness.anonymous().get("/console/sandbox").await;
    let expected = format!("Attached: {ESCAPED}.pdf (application/pdf, 1042 bytes)");
    assert!(outbox.text.contains(&expected), "{}", outbox.text);
    assert!(!outbox.text.contains(HOSTILE));
}

#[tokio::test]
async fn without_a_key_only_this_machines_names_are_answered() {
    let harness = Harness::start_with(OPEN, Clock::System).await;
    let anonymous = harness.anonymous();
    for path in PAGES {
        let foreign = anonymous.request(Method::GET, path).header("host", "evil.example");
        let answer = Answer::of(foreign).await;
        assert_eq!(answer.status, 421, "{path}");
        assert_restricted(&answer);
    }
    let port = harness.address().port();
    let local = anonymous.request(Method::GET, "/console").header("host", format!("localhost:{port}"));
    Answer::of(local).await.ok(200);
}

/// The beginning of the feed, up to its first events.
async fn feed(client: &Client) -> String {
    let mut response = client.request(Method::GET, "/console/feed").send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let mut text = String::new();
    while !(text.contains("event: feed") && text.ends_with("\n\n")) {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn a_key_opens_the_console_of_its_own_app() {
    let harness = Harness::start().await;
    for path in PAGES {
        let refused = harness.anonymous().get(path).await;
        refused.problem(401, "unauthorized");
        assert!(refused.header("www-authenticate").starts_with("Basic "), "{refused:?}");
        assert_restricted(&refused);
    }
    let send_only = harness.client(&harness.key(&[Scope::Send]).await);
    send_only.get("/console").await.problem(403, "forbidden");

    for (app, id) in [(APP, "of-shop"), ("bank", "of-bank")] {
        happened(&harness, app, id, Channel::Sms, EventType::Sent, 0).await;
        recorded(&harness, app, id, Channel::Sms, "+821012345678", json!({"text": format!("says {id}")}))
            .await;
    }
    for (app, own, other) in [(APP, "of-shop", "of-bank"), ("bank", "of-bank", "of-shop")] {
        let client = harness.client(&harness.key_of(app, &[Scope::Read]).await);
        let path = format!("/console/notifications/{app}/{own}");
        eventually("the event is folded", || async { client.get(&path).await.status == 200 }).await;
        for page in [
            client.get("/console").await.text,
            client.get("/console/sandbox").await.text,
            feed(&client).await,
        ] {
            assert!(page.contains(own) && !page.contains(other), "{app}: {page}");
        }
        let elsewhere = if app == APP { "bank" } else { APP };
        client.get(&format!("/console/notifications/{elsewhere}/{other}")).await.ok(404);
    }
}

#[tokio::test]
async fn a_browser_shows_it_and_keeps_it_up_to_date() {
    let Some(browser) = Browser::start().await else { return };
    let harness = Box::pin(busy()).await;
    let mut page = browser.open(&format!("{}/console", harness.url)).await;
    page.until("the feed is live", "document.getElementById('live').dataset.state === 'live'").await;
    let dom = page.evaluate("document.documentElement.outerHTML").await;
    let dom = dom.as_str().unwrap();
    for text in ["order-1042-shipped", "dead lettered", ESCAPED_IN_DOM, "Your order 1042 has been shipped"] {
        assert!(dom.contains(text), "{text}\n{dom}");
    }
    let shown = page.evaluate("document.querySelector('.tiles').innerText").await;
    assert!(shown.as_str().unwrap().contains("14"), "{shown}");
    assert_eq!(page.evaluate("document.querySelectorAll('#feed .fresh').length").await, 0);

    happened(&harness, APP, "parcel-77-delivered", Channel::Sms, EventType::Delivered, 0).await;
    let fresh =
        "document.querySelector('#feed li.fresh .what')?.innerText.includes('parcel-77-delivered') === true";
    page.until("the new event is shown", fresh).await;
    let first = "document.querySelector('#feed li').innerText.includes('parcel-77-delivered')";
    assert_eq!(page.evaluate(first).await, true);
    page.until("the figures follow", "document.querySelector('.tiles dd').innerText === '15'").await;
    assert_eq!(page.log, [""; 0], "the browser complains");
    for (name, width, scheme) in
        [("overview-light", 1360, "light"), ("overview-dark", 1360, "dark"), ("overview-phone", 390, "light")]
    {
        let picture = page.picture(name, width, scheme).await;
        assert!(picture.starts_with(b"\x89PNG"));
        let fits = "document.documentElement.scrollWidth <= window.innerWidth";
        assert_eq!(page.evaluate(fits).await, true, "{name} is wider than the screen");
    }

    let mut outbox = browser.open(&format!("{}/console/sandbox", harness.url)).await;
    assert_eq!(outbox.evaluate("document.title").await, "Outbox · Peal", "a script of a message ran");
    assert_eq!(outbox.evaluate("document.querySelectorAll('iframe[sandbox=\"\"]').length").await, 2);
    assert_eq!(outbox.evaluate("document.querySelector('iframe').contentDocument").await, Value::Null);
    outbox.picture("outbox-light", 1360, "light").await;
    outbox.picture("outbox-phone", 390, "dark").await;
    let url = format!("{}/console/notifications/shop/order-1051-shipped", harness.url);
    let mut one = browser.open(&url).await;
    one.picture("notification-light", 1360, "light").await;
    assert_eq!(one.log, [""; 0], "the browser complains");
}
