//! Pushes: all devices of a recipient get one each, and a device that is gone gets none any more.

use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Apns, Fcm};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use super::LIMIT;
use super::region::{Region, intake, kinds};

const KEY: &str = include_str!("../../keys/rsa-2048.pem");
const OLD: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
const NEW: &str = "11fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f1";

#[tokio::test(flavor = "multi_thread")]
async fn all_devices_get_it_and_one_that_is_gone_no_more() {
    let region = Region::start().await;
    let (apns, fcm) = (Apns::start().await.unwrap(), Fcm::start().await.unwrap());
    apns.answer_with(|request| match request.path.ends_with(OLD) {
        true => Apns::refusal(410, "Unregistered", None),
        false => Answer::status(200).header("apns-id", "eabeae54-14a8-11e5-b60b-1697f925ec7b"),
    });
    region.category("orders", json!({"class": "transactional", "channels": ["push"]})).await;
    let devices = [(Channel::Apns, OLD), (Channel::Apns, NEW), (Channel::Fcm, "android")];
    let state = region.recipient("u", &devices, json!({})).await;
    let account = json!({
        "type": "service_account", "project_id": "shop", "private_key_id": "1", "private_key": KEY,
        "client_email": "peal@shop.iam.gserviceaccount.com", "token_uri": fcm.token_url(),
    });
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let dispatcher = region.dispatcher(&format!(
        "[channels.apns]\nkey = '''{key}'''\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\n\
         topic = \"com.example.shop\"\nbase_url = \"{}\"\n\
         [channels.fcm]\nservice_account = '''{account}'''\nbase_url = \"{}\"\n",
        apns.base_url(),
        fcm.base_url(),
    ));
    region.accept(&intake("n-1", &["u"], state)).await;
    apns.wait_for(2, LIMIT).await.unwrap();
    let failed = region.event("n-1", EventType::Failed).await;
    assert_eq!((failed.channel, failed.reason.as_deref()), (Some(Channel::Apns), Some("unregistered")));
    region.drained().await;
    let happened = kinds(&region.events().await, "n-1");
    assert_eq!(happened.iter().filter(|kind| **kind == EventType::Sent).count(), 2, "{happened:?}");

    region.accept(&intake("n-2", &["u"], state)).await;
    region.event("n-2", EventType::Sent).await;
    region.drained().await;
    let called: Vec<_> = apns.received().into_iter().map(|request| request.path).collect();
    assert_eq!(called.iter().filter(|path| path.ends_with(OLD)).count(), 1);
    assert_eq!((called.len(), fcm.pushes().len(), fcm.grants().len()), (3, 2, 1));
    dispatcher.end().await;
}
