//! What runs on the server, in one step that nothing comes between.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

const STORE_SOURCE: &str = include_str!("store.lua");
const OPEN_SOURCE: &str = include_str!("open.lua");
const ARRIVE_SOURCE: &str = include_str!("arrive.lua");
const CLOSE_SOURCE: &str = include_str!("close.lua");

pub(crate) static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(STORE_SOURCE));
pub(crate) static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(OPEN_SOURCE));
pub(crate) static GROW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("grow.lua")));
pub(crate) static ARRIVE: LazyLock<Script> = LazyLock::new(|| Script::new(ARRIVE_SOURCE));
pub(crate) static CLOSE: LazyLock<Script> = LazyLock::new(|| Script::new(CLOSE_SOURCE));
pub(crate) static RETELL: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("retell.lua")));

/// Makes all that runs have left. `ack` is the script that ends deliveries;
/// `constants` are names and values that the script uses.
pub(crate) fn commit(ack: &str, constants: &[(&str, &str)]) -> Script {
    // Each script is a function of its keys and arguments.
    let functions = [
        ("store", STORE_SOURCE),
        ("open", OPEN_SOURCE),
        ("arrive", ARRIVE_SOURCE),
        ("close", CLOSE_SOURCE),
        ("ack", ack),
    ];
    let functions = functions
        .map(|(name, source)| format!("local function {name}(KEYS, ARGV)\n{source}\nend\n"));
    let constants = constants
        .iter()
        .map(|(name, value)| format!("local {name} = {}\n", quoted(value)));
    let constants: String = constants.collect();
    Script::new(&(constants + &functions.concat() + include_str!("commit.lua")))
}

/// Any text as Lua writes it: each byte by its number.
fn quoted(text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:03}")).collect();
    format!("\"{bytes}\"")
}

/// A time as the scripts take it: in milliseconds, at least one.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// How long something lives, as the scripts take it: 0 for ever.
pub(crate) fn life(expires: Option<Duration>) -> u64 {
    // No time at all is Celery's word for ever.
    expires
        .filter(|expires| !expires.is_zero())
        .map_or(0, millis)
}
