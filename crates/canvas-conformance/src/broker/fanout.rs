//! Broadcasts.

use canvas_core::broker::Subscription;
use canvas_core::protocol::Message;

use super::{MOMENT, PATIENCE, Port, message};

pub(super) async fn a_broadcast_reaches_those_who_listen_now(broker: Port) {
    let say = |key: &'static str, id: &'static str| broker.broadcast("news", key, message(id));
    say("a.b", "before").await.unwrap();
    let mut first = broker.subscribe("news").await.unwrap();
    let mut second = broker.subscribe("news").await.unwrap();
    let mut other = broker.subscribe("other").await.unwrap();
    say("a.b", "1").await.unwrap();
    say("c", "2").await.unwrap();
    let late = broker.subscribe("news").await.unwrap();
    say("", "3").await.unwrap();
    for listener in [&mut first, &mut second] {
        for (key, id) in [("a.b", "1"), ("c", "2"), ("", "3")] {
            assert_eq!(heard(listener).await, (key.to_owned(), message(id)));
        }
    }
    let mut late = late;
    assert_eq!(heard(&mut late).await.1, message("3"));
    assert!(tokio::time::timeout(MOMENT, other.next()).await.is_err());
    drop((first, second, late));
    say("d", "nobody").await.unwrap();
    let mut again = broker.subscribe("news").await.unwrap();
    assert!(tokio::time::timeout(MOMENT, again.next()).await.is_err());
    say("e", "4").await.unwrap();
    assert_eq!(heard(&mut again).await.1, message("4"));
}

async fn heard(listener: &mut Box<dyn Subscription>) -> (String, Message) {
    let heard = tokio::time::timeout(PATIENCE, listener.next()).await;
    heard.expect("nothing heard").unwrap().expect("closed")
}
