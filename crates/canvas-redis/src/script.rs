//! Calling what runs on the server in one step.

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult, Script};

/// Calls a script with keys and arguments. It is sent first to a server that
/// does not know it.
///
/// # Errors
/// What the server or the connection has to say.
pub async fn run_script<T: FromRedisValue>(
    script: &Script,
    keys: &[impl AsRef<str>],
    arguments: &[impl AsRef<[u8]>],
    mut connection: MultiplexedConnection,
) -> RedisResult<T> {
    let mut call = script.prepare_invoke();
    for key in keys {
        call.key(key.as_ref());
    }
    for argument in arguments {
        call.arg(argument.as_ref());
    }
    call.invoke_async(&mut connection).await
}
