//! Changes to the system after which it must fail.

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// Deliveries are settled before their effects are made.
    AckFirst,
    /// Settling asks for no epoch.
    NoFence,
    /// A join tells members apart by what they came with, too, as Celery did
    /// up to 5.6.
    KeyedByValue,
    /// A join that is complete still takes members in.
    LateMembersCount,
    /// A claim that has lapsed passes to nobody.
    ClaimIsForGood,
    /// A join is closed before its body is sent.
    CloseFirst,
    /// A client opens joins after it has published.
    OpenLast,
    /// Continuations are kept after the messages that refer to them are sent.
    KeepLast,
    /// A result is stored after what follows it was sent.
    StoreLast,
    /// Continuations get new ids whenever a delivery is seen through again.
    FreshIds,
    /// A run goes on from its own result, though another stands.
    NothingSupersedes,
    /// The last write of a result stands.
    LastWriteWins,
}
