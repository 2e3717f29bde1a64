//! Which servers a URL names, and which of them has a key.

use canvas_core::{Error, Result};
use memcache::exp::Router;

/// The port of Memcached.
const PORT: u16 = 11_211;

/// The schemes after which servers follow; Celery writes `cache+` before them.
const SCHEMES: [&str; 4] = ["memcached", "memcache", "pymemcache", "pylibmc"];

/// Servers by their URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Each as `host:port`, as they are dialled.
    pub(crate) addresses: Vec<String>,
    /// The URL as people may see it.
    pub(crate) shown: String,
}

impl Servers {
    /// Reads a URL such as `cache+memcached://h1:11211;h2/`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Error::Config(format!(
                "`{url}` is not the URL of a Memcached: write `memcached://localhost:11211`"
            )));
        };
        if !SCHEMES.contains(&scheme.strip_prefix("cache+").unwrap_or(scheme)) {
            return Err(Error::UnknownScheme {
                port: "backend",
                scheme: scheme.to_owned(),
                known: "memcached, memcache, pymemcache and pylibmc, each also as Celery writes \
                        it, as in cache+memcached"
                    .to_owned(),
            });
        }
        let names = rest.trim_end_matches('/').split(';').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        let addresses: Vec<String> = names.map(address).collect::<Result<_>>()?;
        if addresses.is_empty() {
            return Err(Error::Config(format!(
                "`{url}` names no server: write `{scheme}://localhost:{PORT}`"
            )));
        }
        Ok(Self {
            shown: format!("{scheme}://{}/", addresses.join(";")),
            addresses,
        })
    }
}

fn address(name: &str) -> Result<String> {
    if name.starts_with('/') || name.starts_with("unix:") {
        return Err(Error::Unsupported {
            operation: "backend.connect",
            driver: "Memcached".to_owned(),
            hint: format!(
                "`{name}` is a socket; have it listen on a port: `memcached -l 127.0.0.1`"
            ),
        });
    }
    if let Some((_, server)) = name.rsplit_once('@') {
        return Err(Error::Unsupported {
            operation: "backend.connect",
            driver: "Memcached".to_owned(),
            hint: format!("a login is not understood; name the server alone, `{server}`"),
        });
    }
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !name.ends_with(']') => (host, port),
        _ => return Ok(format!("{name}:{PORT}")),
    };
    match port.parse::<u16>() {
        Ok(port) if !host.is_empty() => Ok(format!("{host}:{port}")),
        _ => Err(Error::Config(format!(
            "`{name}` is no `host:port` of a Memcached"
        ))),
    }
}

/// Chooses the server of a key as the client does that Celery 5.7 uses, so that
/// both find what the other has stored: the one that, hashed together with the
/// key, comes out highest. If a server is added or removed, only its own keys
/// move.
///
/// All that belongs to one join of ours is on one server, and lost with it.
#[derive(Debug)]
pub(crate) struct Highest {
    /// What keys of joins begin with, up to the id; what follows a `|` does not
    /// matter.
    pub(crate) joins: String,
}

impl Router for Highest {
    fn route(&self, key: &[u8], servers: &[String]) -> usize {
        if servers.len() == 1 {
            return 0;
        }
        let key = match key.iter().position(|byte| *byte == b'|') {
            Some(end) if key.starts_with(self.joins.as_bytes()) => &key[..end],
            _ => key,
        };
        let score = |server: &str| {
            // Python's client drops the brackets of an IPv6 address.
            let name = server.replace(['[', ']'], "");
            let mut text = Vec::with_capacity(name.len() + 1 + key.len());
            text.extend_from_slice(name.as_bytes());
            text.push(b'-');
            text.extend_from_slice(key);
            (murmur3(&text), name)
        };
        let best = (0..servers.len()).max_by_key(|at| score(&servers[*at]));
        best.unwrap_or_default()
    }
}

/// MurmurHash3, 32 bits, with the seed 0.
pub(crate) fn murmur3(data: &[u8]) -> u32 {
    let scramble = |word: u32| {
        let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15);
        word.wrapping_mul(0x1b87_3593)
    };
    let (words, rest) = data.as_chunks::<4>();
    let mut hash = words.iter().fold(0_u32, |hash, word| {
        let hash = hash ^ scramble(u32::from_le_bytes(*word));
        hash.rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64)
    });
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        hash ^= scramble(u32::from_le_bytes(word));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "so the hash is defined; keys have 250 bytes at most"
    )]
    let length = data.len() as u32;
    hash ^= length;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_celery_and_ours_name_the_same_servers() {
        for url in [
            "memcached://one:11211;two:11212",
            "cache+memcached://one;two:11212/",
            "cache+memcache://one:11211;two:11212/",
            "cache+pylibmc://one; two:11212;",
        ] {
            let found = Servers::parse(url).unwrap();
            assert_eq!(found.addresses, ["one:11211", "two:11212"], "{url}");
        }
        let six = Servers::parse("memcached://[::1];[::1]:11212").unwrap();
        assert_eq!(six.addresses, ["[::1]:11211", "[::1]:11212"]);
    }

    #[test]
    fn what_cannot_be_reached_says_what_to_do() {
        let said = |url: &str| Servers::parse(url).unwrap_err().to_string();
        for (url, advice) in [
            ("localhost:11211", "memcached://localhost:11211"),
            ("cache+memcached://", "names no server"),
            ("memcached:///run/memcached.sock", "listen on a port"),
            ("memcached://me:secret@one", "name the server alone"),
            ("memcached://one:port", "`host:port`"),
            ("redis://one", "cache+memcached"),
        ] {
            let said = said(url);
            assert!(said.contains(advice), "{url}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    /// Computed with the client that Celery uses.
    #[test]
    fn the_hash_is_murmurs() {
        for (text, hash) in [
            ("", 0),
            ("a", 0x3c25_69b2),
            ("hello", 0x248b_fa47),
            ("hello, world", 0x149b_bb7f),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn a_server_that_goes_moves_only_its_own_keys() {
        let router = Highest {
            joins: "canvas-join-".to_owned(),
        };
        let all: Vec<String> = (0..4).map(|n| format!("10.0.0.{n}:11211")).collect();
        let mut fewer = all.clone();
        let gone = fewer.remove(1);
        let mut moved = 0;
        for n in 0..1_000 {
            let key = format!("celery-task-meta-{n}");
            let before = &all[router.route(key.as_bytes(), &all)];
            let after = &fewer[router.route(key.as_bytes(), &fewer)];
            if *before == gone {
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((150..350).contains(&moved), "{moved}");
    }

    #[test]
    fn what_belongs_to_one_join_is_on_one_server() {
        let router = Highest {
            joins: "canvas-join-".to_owned(),
        };
        let all: Vec<String> = (0..9).map(|n| format!("10.0.0.{n}:11211")).collect();
        let at = |key: &str| router.route(key.as_bytes(), &all);
        for n in 0..100 {
            let home = at("canvas-join-g");
            assert_eq!(at(&format!("canvas-join-g|e|{n}")), home);
        }
        let spread: std::collections::HashSet<usize> = (0..100)
            .map(|n| at(&format!("celery-task-meta-a|{n}")))
            .collect();
        assert!(spread.len() > 5);
    }
}
