//! Where a message goes, when, and with what.

use super::*;

fn one(canvas: Signature) -> Outgoing {
    sent(&Canvas::in_memory(), canvas).remove(0)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    Some(text.parse().unwrap())
}

#[test]
fn a_queue_or_an_exchange_is_where_the_message_goes() {
    assert_eq!(one(t("a")).to, Destination::queue("celery"));
    assert_eq!(one(t("a").queue("mail")).to, Destination::queue("mail"));
    assert_eq!(
        one(t("a").set("routing_key", "k")).to,
        Destination::queue("k")
    );
    let topic = one(t("a").set("exchange", "topic").set("routing_key", "a.b")).to;
    assert_eq!((&*topic.exchange, &*topic.routing_key), ("topic", "a.b"));
}

#[test]
fn times_become_moments() {
    let soon = one(t("a").countdown(Duration::from_secs(90)))
        .message
        .headers;
    assert_eq!(soon.eta, time("2026-11-24T06:01:30Z"));
    let at = one(t("a").eta("2026-11-24T08:00:00+01:00".parse().unwrap()))
        .message
        .headers;
    assert_eq!(at.eta, time("2026-11-24T07:00:00Z"));
    let past = one(t("a").eta("2020-01-01T00:00:00Z".parse().unwrap()))
        .message
        .headers;
    assert_eq!(past.eta, None, "it may run at once");
    let expires = one(t("a").expires_in(Duration::from_millis(2_500))).message;
    assert_eq!(expires.headers.expires, time("2026-11-24T06:00:02.5Z"));
    assert_eq!(expires.properties.expiration, Some(2_500));
    let moment = one(t("a").set("expires", "2026-11-24T06:00:10")).message;
    assert_eq!(moment.headers.expires, time("2026-11-24T06:00:10Z"));
}

#[test]
fn limits_headers_and_the_rest_are_in_the_message() {
    let message = one(t("a")
        .priority(3)
        .time_limit(Duration::from_secs(60))
        .soft_time_limit(Duration::from_millis(500))
        .ignore_result(true)
        .header("mine", json!([1]))
        .header("other", "x")
        .set("shadow", "nick")
        .set("reply_to", "me"))
    .message;
    assert_eq!(message.properties.priority, Some(3));
    assert_eq!(message.properties.reply_to, Some("me".into()));
    let headers = message.headers;
    assert_eq!(headers.timelimit, (Some(60.0), Some(0.5)));
    assert_eq!(headers.ignore_result, Some(true));
    assert_eq!(headers.shadow.as_deref(), Some("nick"));
    assert_eq!(json!(headers.extra), json!({"mine": [1], "other": "x"}));
}

#[test]
fn an_option_that_nobody_knows_becomes_a_property_and_a_retry_policy_does_not() {
    let signature = t("a")
        .set("retry", true)
        .set("retry_policy", json!({"max_retries": 3}))
        .set("delivery_mode", 1)
        .set("mine", "x");
    let kept = Signature::from_value(signature.to_value()).unwrap();
    assert_eq!(
        kept.options.get("retry_policy"),
        Some(&json!({"max_retries": 3}))
    );
    let message = one(signature).message;
    assert_eq!(message.properties.extra.get("mine"), Some(&json!("x")));
    for key in ["retry", "retry_policy"] {
        assert!(message.properties.extra.get(key).is_none(), "{key}");
        assert!(message.headers.extra.get(key).is_none(), "{key}");
    }
}

#[test]
fn a_chains_options_are_its_first_steps_and_a_groups_all_of_its_members() {
    let app = Canvas::in_memory();
    let chain = (t("a") | t("b")).queue("q").priority(2);
    let first = sent(&app, chain).remove(0);
    assert_eq!(first.to, Destination::queue("q"));
    let next = Body::from_json(&first.message.body)
        .unwrap()
        .2
        .chain
        .unwrap();
    assert_eq!(next[0].open().unwrap().options.queue(), None);
    let group = group([t("a"), t("b").queue("own"), t("c") | t("d")]).queue("q");
    let queues: Vec<String> = sent(&app, group)
        .iter()
        .map(|o| o.to.routing_key.to_string())
        .collect();
    assert_eq!(
        queues,
        ["q", "q", "q"],
        "as in Celery, what is given last counts"
    );
}

#[test]
fn a_chords_delay_is_its_headers_and_the_rest_is_the_bodys_too() {
    let app = Canvas::in_memory();
    let chord = chord([t("a"), t("b")], t("c"));
    let chord = chord.queue("q").countdown(Duration::from_secs(10));
    for outgoing in sent(&app, chord) {
        assert_eq!(outgoing.to, Destination::queue("q"));
        assert_eq!(outgoing.message.headers.eta, time("2026-11-24T06:00:10Z"));
        let embed = Body::from_json(&outgoing.message.body).unwrap().2;
        let body = embed.chord.unwrap().open().unwrap();
        assert_eq!(body.options.queue(), Some("q"));
        assert_eq!(body.options.countdown(), None);
    }
}

#[test]
fn what_cannot_be_sent_is_refused_before_anything_is() {
    let app = Canvas::in_memory();
    let (long, short) = (Duration::from_secs(60), Duration::from_secs(1));
    for (canvas, why) in [
        (
            t("a").time_limit(short).soft_time_limit(long),
            "the soft time limit (60s)",
        ),
        (
            t("a").set("serializer", "pickle"),
            "serializer `pickle` is not supported",
        ),
    ] {
        let error = sent_at(&app, group([t("x"), canvas]), Utc::now()).unwrap_err();
        assert!(matches!(error, Error::InvalidCanvas(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// What another would take a minute to see: the options as a worker sees them.
#[tokio::test]
async fn options_pass_through_the_broker() {
    let app = Canvas::in_memory();
    app.apply(t("a").queue("mail").priority(4).header("mine", 1))
        .await
        .unwrap();
    let spec = ConsumeSpec {
        queues: vec!["mail".into()],
        prefetch: 1,
        lease: Duration::from_secs(60),
    };
    let mut consumer = app.broker().consume(spec).await.unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    let Message {
        headers,
        properties,
        ..
    } = delivery.message;
    assert_eq!(headers.extra["mine"], 1);
    assert_eq!(properties.priority, Some(4));
}
