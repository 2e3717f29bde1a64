//! `cargo xtask bench`: how fast it is, by itself and beside Celery.

mod criterion;
mod side;

pub(crate) use criterion::BENCHES;

/// What belongs to the side-by-side, which then runs alone.
const OF_SIDE: [&str; 9] = [
    "--side",
    "--quick",
    "--only",
    "--rounds",
    "--sides",
    "--tasks",
    "--concurrency",
    "--prefetch",
    "--references",
];

pub(crate) fn bench(arguments: &[String]) -> Result<(), String> {
    match chosen(arguments) {
        Chosen::Both => {
            criterion::criterion(&[])?;
            side::side(&[])
        }
        Chosen::Side(arguments) => side::side(&arguments),
        Chosen::Pairs(names, arguments) => side::pairs(&names, &arguments),
        Chosen::Criterion => criterion::criterion(arguments),
    }
}

#[derive(Debug, PartialEq)]
enum Chosen {
    Both,
    Side(Vec<String>),
    /// Which pairs, and the rest of the options.
    Pairs(String, Vec<String>),
    Criterion,
}

fn chosen(arguments: &[String]) -> Chosen {
    let Some(first) = arguments.first() else {
        return Chosen::Both;
    };
    if first == "--pairs" {
        let rest = &arguments[1..];
        return match rest.split_first() {
            Some((names, rest)) if !names.starts_with("--") => {
                Chosen::Pairs(names.clone(), rest.to_vec())
            }
            _ => Chosen::Pairs("all".to_owned(), rest.to_vec()),
        };
    }
    if !OF_SIDE.contains(&first.as_str()) {
        return Chosen::Criterion;
    }
    let own = arguments.iter().filter(|argument| *argument != "--side");
    Chosen::Side(own.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_side_by_side_are_told_from_those_of_criterion() {
        let chosen = |line: &str| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            chosen(&arguments)
        };
        assert_eq!(chosen(""), Chosen::Both);
        assert_eq!(chosen("--side"), Chosen::Side(Vec::new()));
        let only = ["--only".to_owned(), "drain".to_owned()];
        assert_eq!(chosen("--only drain"), Chosen::Side(only.to_vec()));
        let quick = vec!["--quick".to_owned()];
        let pairs = |names: &str| Chosen::Pairs(names.to_owned(), quick.clone());
        assert_eq!(chosen("--pairs --quick"), pairs("all"));
        assert_eq!(chosen("--pairs amqp+redis --quick"), pairs("amqp+redis"));
        assert_eq!(chosen("plan/chain"), Chosen::Criterion);
        assert_eq!(chosen("--save-baseline before"), Chosen::Criterion);
    }
}
