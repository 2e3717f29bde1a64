//! URLs of RabbitMQ servers, as Celery writes them.

use std::time::Duration;

use canvas_core::{Error, Result};
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::config::AmqpBrokerConfig;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) uri: AMQPUri,
    /// The URL without its password.
    pub(crate) shown: String,
}

/// Reads one URL, or several with a `;` between them.
pub(crate) fn read(urls: &str, config: &AmqpBrokerConfig) -> Result<Vec<Server>> {
    let urls = urls.split(';').map(str::trim);
    let urls: Vec<&str> = urls.filter(|url| !url.is_empty()).collect();
    if urls.is_empty() {
        return Err(Error::Config(
            "the broker URL is empty: write amqp://guest:guest@localhost:5672//".to_owned(),
        ));
    }
    urls.into_iter().map(|url| read_one(url, config)).collect()
}

fn read_one(url: &str, config: &AmqpBrokerConfig) -> Result<Server> {
    let wrong = |reason: String| {
        let shown = without_password(url);
        Error::Config(format!("the broker URL `{shown}` cannot be used: {reason}"))
    };
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| wrong("write amqp://user:password@host:5672/vhost".to_owned()))?;
    let scheme = match scheme {
        "amqp" | "pyamqp" | "librabbitmq" => "amqp",
        "amqps" | "pyamqps" if cfg!(feature = "tls") => "amqps",
        "amqps" | "pyamqps" => {
            return Err(Error::Unsupported {
                operation: "broker.connect",
                driver: "the RabbitMQ broker as it was built".to_owned(),
                hint: "switch on the feature `tls` of canvas-broker-amqp".to_owned(),
            });
        }
        other => {
            return Err(Error::UnknownScheme {
                port: "broker",
                scheme: other.to_owned(),
                known: "amqp, pyamqp, amqps".to_owned(),
            });
        }
    };
    let mut uri: AMQPUri = format!("{scheme}://{rest}").parse().map_err(wrong)?;
    // An address in brackets is no name to the parser, which then takes its default.
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, at)| at);
    if let Some((inside, _)) = address
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        inside.clone_into(&mut uri.authority.host);
    }
    // As kombu: names are looked up in no order that one can rely on.
    if uri.authority.host == "localhost" {
        "127.0.0.1".clone_into(&mut uri.authority.host);
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
    let query = &mut uri.query;
    query.heartbeat.get_or_insert(seconds(config.heartbeat));
    let limit = u64::try_from(config.connect_timeout.as_millis()).unwrap_or(u64::MAX);
    query.connection_timeout.get_or_insert(limit);
    let shown = shown(&uri);
    Ok(Server { uri, shown })
}

fn shown(uri: &AMQPUri) -> String {
    let scheme = match uri.scheme {
        AMQPScheme::AMQP => "amqp",
        AMQPScheme::AMQPS => "amqps",
    };
    let authority = &uri.authority;
    let host = match authority.host.contains(':') {
        true => format!("[{}]", authority.host),
        false => authority.host.clone(),
    };
    let user = &authority.userinfo.username;
    format!(
        "{scheme}://{user}:**@{host}:{}/{}",
        authority.port, uri.vhost
    )
}

/// A URL that may make no sense, without what may be a password.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://**@{rest}"),
        (None, Some((_, rest))) => format!("**@{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> Server {
        let mut servers = read(url, &AmqpBrokerConfig::default()).unwrap();
        assert_eq!(servers.len(), 1);
        servers.remove(0)
    }

    #[test]
    fn urls_mean_what_kombu_takes_them_to_mean() {
        // Each row: host, port and virtual host by kombu.utils.url.parse_url
        // and the defaults of its transport.
        let table = [
            ("amqp://", "127.0.0.1", 5672, "/"),
            ("amqp://localhost", "127.0.0.1", 5672, "/"),
            (
                "pyamqp://me:secret@mq.example:5673/",
                "mq.example",
                5673,
                "/",
            ),
            ("amqp://mq//", "mq", 5672, "/"),
            ("amqp://mq/%2F", "mq", 5672, "/"),
            ("amqp://mq/my%20host", "mq", 5672, "my host"),
            ("amqp://u:p%40@[::1]:7/x", "::1", 7, "x"),
            ("amqp://10.0.0.1/x", "10.0.0.1", 5672, "x"),
        ];
        for (url, host, port, vhost) in table {
            let uri = one(url).uri;
            let found = (&*uri.authority.host, uri.authority.port, &*uri.vhost);
            assert_eq!(found, (host, port, vhost), "{url}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(one("amqp://me:secret@mq/x").shown, "amqp://me:**@mq:5672/x");
        assert_eq!(one("amqp://me:s@mq").shown, "amqp://me:**@mq:5672//");
        for url in ["amqp://me:secret@mq:port", "me:secret@mq"] {
            let error = read(url, &AmqpBrokerConfig::default()).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn several_servers_are_read_in_order() {
        let servers = read("amqp://a;amqp://b;", &AmqpBrokerConfig::default()).unwrap();
        let hosts: Vec<&str> = servers.iter().map(|s| &*s.uri.authority.host).collect();
        assert_eq!(hosts, ["a", "b"]);
    }

    #[test]
    fn a_heartbeat_in_the_url_counts_before_the_setting() {
        assert_eq!(one("amqp://a").uri.query.heartbeat, Some(10));
        assert_eq!(one("amqp://a?heartbeat=3").uri.query.heartbeat, Some(3));
    }

    #[test]
    fn other_schemes_are_refused() {
        let error = read("redis://a", &AmqpBrokerConfig::default()).unwrap_err();
        assert!(matches!(error, Error::UnknownScheme { .. }));
        let error = read(" ; ", &AmqpBrokerConfig::default()).unwrap_err();
        assert!(matches!(error, Error::Config(_)));
    }
}
