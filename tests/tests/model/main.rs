//! A proof that canvases survive crashes.
//!
//! Two workers make the effects of their runs, which the real code decides, in
//! every order. Between any two effects a worker may die, before it runs a
//! task, after, and with the delivery not yet settled; leases and claims may
//! pass on while their holders live; messages come twice. In each state that
//! can be reached the properties in `check.rs` hold.

mod check;
mod driver;
mod mutation;
mod program;
mod reference;
mod scene;
mod state;
mod store;

use std::time::Instant;

use canvas_core::{Policy, Signature, chain, chord};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::check::{
    Check, FAILS_AFTER, FENCED, GIVEN_RESULTS, KEPT, NOT_STUCK, ONE_MESSAGE, SUCCESS_STANDS,
};
use crate::mutation::Mutation;
use crate::scene::{Scene, t, that};
use crate::state::Faults;

/// Looks at every state that can be reached, and finds nothing wrong.
fn holds(scene: Scene, faults: Faults) {
    let began = Instant::now();
    let check = Check::new(scene, faults, Mutation::None);
    let found = check.checker().threads(2);
    let found = found
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{faults}: {} states, {} steps at most, {:.1?}",
        found.unique_state_count(),
        found.max_depth(),
        began.elapsed()
    );
    for (name, path) in found.discoveries() {
        if found.model().property(name).expectation == Expectation::Always {
            println!("not so: {name}\n{}", found.model().story(path.into_vec()));
        }
    }
    found.assert_properties();
    assert!(found.is_done(), "every state was looked at");
}

/// Breaks something, and finds that a property no longer holds.
fn breaks(property: &'static str, broken: Mutation, scene: Scene, faults: Faults) {
    let check = Check::new(scene, faults, broken);
    let wanted = HasDiscoveries::AnyOf([property].into());
    let found = check
        .checker()
        .threads(2)
        .finish_when(wanted)
        .spawn_bfs()
        .join();
    let path = found.discovery(property);
    let path = path.unwrap_or_else(|| panic!("with {broken:?}, still {property}"));
    println!(
        "{broken:?}, not so: {property}\n{}",
        found.model().story(path.into_vec())
    );
}

/// Nothing goes wrong.
const NEVER: Faults = Faults {
    crashes: 0,
    lapses: 0,
    errors: 0,
    losses: 0,
    quits: 0,
    resends: 0,
};

const fn crashes(crashes: u8) -> Faults {
    Faults { crashes, ..NEVER }
}

const fn lapses(lapses: u8) -> Faults {
    Faults { lapses, ..NEVER }
}

const fn crashes_and_lapses(crashes: u8, lapses: u8) -> Faults {
    Faults {
        crashes,
        lapses,
        ..NEVER
    }
}

fn chord_of_three() -> Scene {
    let canvas = chord([t("a"), t("b"), t("c")], t("d"));
    Scene::new(canvas).chord(&["a", "b", "c"], "d").counted("d")
}

fn chord_of_two() -> Scene {
    Scene::new(chord([t("a"), t("b")], t("d")))
        .chord(&["a", "b"], "d")
        .counted("d")
}

fn chain_of_three() -> Scene {
    Scene::new(chain([t("a"), t("b"), t("c")])).counted("c")
}

fn chord_in_a_chain() -> Scene {
    let canvas = chain([t("a"), chord([t("b"), t("c")], t("d")), t("e")]);
    Scene::new(canvas)
        .chord(&["b", "c"], "d")
        .counted("d")
        .counted("e")
}

/// A member of it gives now one value, now another, each time it runs.
fn wavering_chord() -> Scene {
    let canvas = chord([that("wavers", "a"), t("b")], t("d"));
    Scene::new(canvas)
        .chord(&["a", "b"], "d")
        .counted("d")
        .unsteady()
}

fn two_of_three() -> Scene {
    let canvas = chord([t("a"), t("b"), t("c")], t("d")).policy(Policy::AtLeast(2));
    Scene::new(canvas)
        .quorum(2, &["a", "b", "c"], "d")
        .counted("d")
}

/// A member of it works now and then.
fn breaking_chord() -> Scene {
    let canvas = chord([that("breaks", "a"), t("b")], t("d"));
    Scene::new(canvas)
        .chord(&["a", "b"], "d")
        .counted("d")
        .unsteady()
}

/// What follows its first member has no id when it is sent.
fn linked_chord() -> Scene {
    let linked = t("a").link(Signature::new("callback"));
    let canvas = chord([linked, t("b")], t("d"));
    Scene::new(canvas)
        .chord(&["a", "b"], "d")
        .counted("callback")
}

#[test]
fn a_chord_of_three_survives_two_crashes() {
    holds(chord_of_three(), crashes(2));
}

#[test]
fn a_chord_of_three_survives_two_crashes_and_a_lease_or_claim_that_passes_on() {
    holds(chord_of_three(), crashes_and_lapses(2, 1));
}

#[test]
fn a_chord_survives_a_broker_or_backend_that_fails_a_worker_midway() {
    let faults = Faults {
        errors: 2,
        ..crashes(1)
    };
    holds(chord_of_three(), faults);
}

#[test]
fn a_chain_of_three_survives_crashes_and_duplicates() {
    holds(chain_of_three(), crashes(2));
    holds(chain_of_three(), crashes_and_lapses(2, 1));
}

#[test]
fn a_failed_step_ends_all_of_a_chain() {
    let canvas = chain([t("a"), that("fails", "b"), t("c")]);
    holds(Scene::new(canvas).counted("b"), crashes_and_lapses(2, 1));
}

#[test]
fn a_chord_in_the_middle_of_a_chain_goes_on_once() {
    holds(chord_in_a_chain(), crashes(1));
    holds(chord_in_a_chain(), crashes_and_lapses(1, 1));
}

#[test]
fn what_is_kept_by_reference_is_there_when_it_is_needed() {
    holds(chord_in_a_chain().by_reference(), crashes(1));
    // What fails takes all with it that is only named.
    let failing = chord([t("b"), that("fails", "c")], t("d"));
    let scene = Scene::new(chain([t("a"), failing, t("e"), t("f")])).chord(&["b", "c"], "d");
    holds(scene.counted("c").by_reference(), crashes(1));
}

#[test]
fn a_chord_in_a_chord_ends_both() {
    let canvas = chord([chord([t("a"), t("b")], t("c")), t("d")], t("e"));
    let scene = Scene::new(canvas)
        .chord(&["a", "b"], "c")
        .chord(&["c", "d"], "e");
    holds(scene.counted("c").counted("e"), crashes_and_lapses(1, 1));
}

#[test]
fn a_failed_member_fails_the_body_once_and_calls_its_errback() {
    let body = t("d").link_error(Signature::new("errback"));
    let scene = || {
        let canvas = chord([t("a"), that("fails", "b"), t("c")], body.clone());
        Scene::new(canvas)
            .chord(&["a", "b", "c"], "d")
            .counted("errback")
    };
    holds(scene(), crashes(2));
    holds(scene(), crashes_and_lapses(1, 1));
}

#[test]
fn a_chord_whose_join_is_lost_ends_and_its_errback_is_called_once() {
    let body = t("d").link_error(Signature::new("errback"));
    let scene = Scene::new(chord([t("a"), t("b")], body)).chord(&["a", "b"], "d");
    let faults = Faults {
        losses: 1,
        ..crashes(1)
    };
    holds(scene.counted("errback"), faults);
}

#[test]
fn a_failure_in_an_inner_chord_ends_the_outer_one() {
    let canvas = chord(
        [chord([t("a"), that("fails", "b")], t("c")), t("d")],
        t("e"),
    );
    let scene = Scene::new(canvas)
        .chord(&["a", "b"], "c")
        .chord(&["c", "d"], "e");
    holds(scene.counted("b"), crashes_and_lapses(1, 1));
}

#[test]
fn a_chord_that_needs_two_of_three_gives_its_body_the_same_two() {
    holds(two_of_three(), crashes(2));
    holds(two_of_three(), crashes_and_lapses(1, 1));
}

#[test]
fn a_chord_that_collects_runs_its_body_whatever_becomes_of_a_member() {
    let canvas = chord([t("a"), that("fails", "b")], t("d")).policy(Policy::Collect);
    holds(Scene::new(canvas).counted("d"), crashes_and_lapses(2, 1));
}

#[test]
fn a_body_sees_one_value_of_a_member_that_gives_another_each_time() {
    holds(wavering_chord(), crashes_and_lapses(1, 1));
    holds(wavering_chord().run_again(), crashes_and_lapses(1, 1));
}

#[test]
fn what_follows_a_step_that_gives_another_value_each_time_follows_from_one() {
    let canvas = || chain([that("wavers", "a"), t("b"), t("c")]);
    let scene = || Scene::new(canvas()).unsteady().counted("c");
    holds(scene(), crashes_and_lapses(1, 1));
    holds(scene().run_again(), crashes_and_lapses(1, 1));
}

#[test]
fn a_body_ends_one_way_when_a_member_works_now_and_then() {
    holds(breaking_chord(), crashes_and_lapses(1, 1));
    holds(breaking_chord().run_again(), crashes_and_lapses(1, 1));
}

#[test]
fn a_callback_is_sent_once() {
    holds(linked_chord(), crashes_and_lapses(1, 1));
}

#[test]
fn a_retry_is_sent_once() {
    let canvas = chord([that("retries", "a"), t("b")], t("d"));
    let scene = Scene::new(canvas).chord(&["a", "b"], "d");
    holds(scene.counted("d"), crashes_and_lapses(1, 1));
}

#[test]
fn what_replaces_a_task_is_sent_once() {
    let canvas = chord([that("is replaced", "a"), t("b")], t("d"));
    let scene = Scene::new(canvas).chord(&["a", "b"], "d");
    holds(scene.counted("d"), crashes_and_lapses(1, 1));
}

#[test]
fn no_body_runs_early_when_a_client_dies_in_the_middle_of_sending() {
    holds(
        chord_of_three(),
        Faults {
            quits: 1,
            ..crashes(1)
        },
    );
}

#[test]
fn a_client_that_sends_the_same_canvas_again_completes_it() {
    holds(
        chord_of_three(),
        Faults {
            quits: 1,
            resends: 1,
            ..NEVER
        },
    );
    holds(
        chord_of_two(),
        Faults {
            quits: 1,
            resends: 1,
            ..crashes(1)
        },
    );
    holds(
        // Its steps do run again, so how often says nothing.
        Scene::new(chain([t("a"), t("b"), t("c")])),
        Faults {
            quits: 1,
            resends: 1,
            ..crashes(1)
        },
    );
}

#[test]
fn settling_before_the_effects_loses_a_canvas() {
    breaks(NOT_STUCK, Mutation::AckFirst, chord_of_three(), crashes(1));
    breaks(NOT_STUCK, Mutation::AckFirst, chain_of_three(), crashes(1));
}

#[test]
fn a_stale_receipt_must_be_fenced() {
    breaks(FENCED, Mutation::NoFence, chord_of_two(), lapses(1));
}

#[test]
fn a_join_that_counts_values_fails_its_body_early() {
    let scene = breaking_chord().run_again();
    breaks(FAILS_AFTER, Mutation::KeyedByValue, scene, lapses(1));
}

#[test]
fn a_join_that_lets_late_members_in_sends_two_bodies() {
    breaks(
        ONE_MESSAGE,
        Mutation::LateMembersCount,
        two_of_three(),
        crashes(1),
    );
}

#[test]
fn a_claim_that_never_passes_on_loses_the_body() {
    breaks(
        NOT_STUCK,
        Mutation::ClaimIsForGood,
        chord_of_two(),
        crashes(1),
    );
}

#[test]
fn closing_a_join_before_its_body_is_sent_loses_the_body() {
    breaks(NOT_STUCK, Mutation::CloseFirst, chord_of_two(), crashes(1));
}

#[test]
fn a_member_that_is_sent_before_its_join_is_open_fails_the_body() {
    breaks(FAILS_AFTER, Mutation::OpenLast, chord_in_a_chain(), NEVER);
}

#[test]
fn a_reference_that_is_sent_before_what_it_is_to_is_lost() {
    let scene = chord_in_a_chain().by_reference();
    breaks(KEPT, Mutation::KeepLast, scene, NEVER);
}

#[test]
fn a_result_that_is_stored_last_comes_after_the_body() {
    breaks(GIVEN_RESULTS, Mutation::StoreLast, chord_of_two(), NEVER);
}

#[test]
fn a_second_run_that_goes_on_from_its_own_result_makes_two_truths() {
    let scene = wavering_chord().run_again();
    let broken = Mutation::NothingSupersedes;
    breaks(GIVEN_RESULTS, broken, scene, lapses(1));
    let canvas = chain([that("wavers", "a"), t("b")]);
    let scene = Scene::new(canvas).unsteady().run_again();
    breaks(ONE_MESSAGE, broken, scene, lapses(1));
}

#[test]
fn continuations_with_fresh_ids_are_other_tasks() {
    breaks(ONE_MESSAGE, Mutation::FreshIds, linked_chord(), crashes(1));
}

#[test]
fn a_store_in_which_the_last_write_wins_changes_a_success() {
    let scene = wavering_chord().run_again();
    breaks(SUCCESS_STANDS, Mutation::LastWriteWins, scene, lapses(1));
}
