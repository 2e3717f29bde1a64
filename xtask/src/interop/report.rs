//! What became of Celery's tests, and whether that will do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// How many tests there are, so that none can get lost on the way.
const TESTS: usize = 303;

/// How many may be left out at most.
const EXCLUDED: usize = 20;

/// What became of the tests.
#[derive(Debug, Default)]
pub(super) struct Report {
    by_outcome: BTreeMap<String, BTreeSet<String>>,
    excluded: BTreeSet<String>,
    stale: BTreeSet<String>,
    seconds: f64,
}

impl Report {
    /// Adds what the plugin says of a part.
    pub(super) fn add(&mut self, part: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for (test, outcome) in part["outcomes"].as_object().into_iter().flatten() {
            let tests = self.by_outcome.entry(text(outcome)).or_default();
            tests.insert(test.clone());
        }
        let list = |name: &str| part[name].as_array().into_iter().flatten().map(text);
        self.excluded.extend(list("excluded"));
        self.stale.extend(list("stale"));
        self.seconds = self.seconds.max(part["took"].as_f64().unwrap_or_default());
    }

    fn count(&self, outcome: &str) -> usize {
        self.by_outcome.get(outcome).map_or(0, BTreeSet::len)
    }

    /// The sum, alone on its line for whoever reads it by machine.
    pub(super) fn line(&self) -> String {
        let passed = self.count("passed") + self.count("xpassed");
        let (failed, excluded) = (self.count("failed"), self.excluded.len());
        format!("{passed} passed, {failed} failed, {excluded} excluded")
    }

    /// Prints it; an error unless all is well.
    pub(super) fn judge(&self, whole: bool) -> Result<(), String> {
        for test in self.by_outcome.get("failed").into_iter().flatten() {
            println!("FAILED  {test}");
        }
        for test in &self.stale {
            println!("STALE   {test}: excluded, but there is no such test");
        }
        let expected = self.count("xfailed") + self.count("xpassed");
        println!(
            "took {:.0} s; Celery itself skips {} and expects {expected} to fail, of which {} passed",
            self.seconds,
            self.count("skipped"),
            self.count("xpassed"),
        );
        let passed = self.count("passed") + self.count("xpassed");
        let (failed, excluded) = (self.count("failed"), self.excluded.len());
        println!("{}", self.line());
        let seen = passed + failed + excluded + self.count("skipped") + self.count("xfailed");
        if failed > 0 || !self.stale.is_empty() {
            let stale = self.stale.len();
            Err(format!("{failed} failed, {stale} exclusions are stale"))
        } else if excluded > EXCLUDED {
            Err(format!("more than {EXCLUDED} excluded prove too little"))
        } else if whole && seen != TESTS {
            Err(format!("{seen} tests were seen, not {TESTS}"))
        } else if passed == 0 {
            Err("nothing passed".to_owned())
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(outcomes: &[(&str, &str)], excluded: usize, stale: &[&str]) -> Report {
        let outcomes: serde_json::Map<String, Value> = outcomes
            .iter()
            .map(|(test, outcome)| ((*test).to_owned(), json!(outcome)))
            .collect();
        let excluded: Vec<String> = (0..excluded).map(|n| n.to_string()).collect();
        let mut report = Report::default();
        report.add(&json!({ "outcomes": outcomes, "excluded": excluded, "stale": stale }));
        report
    }

    #[test]
    fn a_test_that_passed_though_celery_expects_it_to_fail_has_passed() {
        let good = report(
            &[("a", "xpassed"), ("b", "skipped"), ("c", "xfailed")],
            20,
            &[],
        );
        assert_eq!(good.judge(false), Ok(()));
    }

    #[test]
    fn a_failed_test_and_a_stale_exclusion_are_failures() {
        assert!(
            report(&[("a", "passed"), ("b", "failed")], 0, &[])
                .judge(false)
                .is_err()
        );
        assert!(
            report(&[("a", "passed")], 0, &["gone"])
                .judge(false)
                .is_err()
        );
    }

    #[test]
    fn too_few_tests_are_a_failure() {
        assert!(report(&[("a", "skipped")], 0, &[]).judge(false).is_err());
        assert!(report(&[("a", "passed")], 21, &[]).judge(false).is_err());
        assert!(report(&[("a", "passed")], 0, &[]).judge(true).is_err());
    }

    #[test]
    fn the_reports_of_all_parts_are_one() {
        let mut whole = report(&[("a", "passed")], 3, &[]);
        let part = json!({ "outcomes": { "b": "passed", "c": "failed" }, "excluded": ["0", "9"] });
        whole.add(&part);
        assert_eq!((whole.count("passed"), whole.count("failed")), (2, 1));
        assert_eq!(whole.excluded.len(), 4);
    }
}
