//! A strict reader of Prometheus' text exposition format 0.0.4, written from its description and from nothing else here.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Result, failed};

/// The samples of a scrape by name, each with its labels and value.
pub type Samples = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

/// Reads a scrape. Refused: a family without HELP and TYPE, or with two; samples apart from their family; names, labels,
/// escapes and values that are not spelled as the format has them; a sample that stands twice; a counter that does not end
/// in `_total`; an end without a newline.
///
/// # Errors
/// The line, and what is wrong.
pub fn parse(text: &str) -> Result<Samples> {
    if !text.ends_with('\n') {
        return failed("the last line does not end");
    }
    let mut samples = Samples::new();
    let (mut helped, mut typed): (BTreeSet<&str>, BTreeMap<&str, &str>) = Default::default();
    let mut family = "";
    for line in text.lines() {
        let bad = |why: &str| failed(format!("{line:?}: {why}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else {
                return bad("no help");
            };
            if !helped.insert(name) || help.trim().is_empty() || !is_name(name) {
                return bad("helped twice, or about nothing");
            }
            family = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else {
                return bad("no type");
            };
            if name != family || !["gauge", "counter"].contains(&kind) {
                return bad("a type apart from its help, or an unknown one");
            }
            if (kind == "counter") != name.ends_with("_total") || typed.insert(name, kind).is_some()
            {
                return bad("counters, and only they, end in _total; and a type stands once");
            }
        } else if line.starts_with('#') || line.is_empty() {
            return bad("neither help, type nor sample");
        } else {
            let Some((name, labels, value)) = sample(line) else {
                return bad("no sample");
            };
            if name != family || !typed.contains_key(name) {
                return bad("a sample apart from its family");
            }
            let known = samples.entry(name.to_owned()).or_default();
            if known.iter().any(|(other, _)| *other == labels) {
                return bad("it stands twice");
            }
            known.push((labels, value));
        }
    }
    Ok(samples)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn sample(line: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok()?;
    let Some((name, rest)) = head.split_once('{') else {
        return is_name(head).then(|| (head, BTreeMap::new(), value));
    };
    let mut rest = rest.strip_suffix('}')?;
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"")?;
        let mut chars = quoted.char_indices();
        let mut text = String::new();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    _ => return None,
                }),
                (_, plain) => text.push(plain),
            }
        };
        if !is_name(label) || labels.insert(label.to_owned(), text).is_some() {
            return None;
        }
        rest = quoted.get(end + 1..)?;
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').filter(|rest| !rest.is_empty())?;
        }
    }
    is_name(name).then_some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_not_of_the_format_is_refused() {
        let head = "# HELP a_total A.\n# TYPE a_total counter\n";
        let good = format!("{head}a_total{{x=\"q\\\"\\\\\\n\",y=\"\"}} 3\na_total 1e3\n");
        let samples = parse(&good).expect("it is of the format");
        assert_eq!(samples["a_total"][0].0["x"], "q\"\\\n");
        assert_eq!(samples["a_total"][1].1, 1000.0);
        for bad in [
            "a_total 3\n".to_owned(),
            format!("{head}a_total 3"),
            format!("{head}{head}"),
            format!("{head}b_total 3\n"),
            format!("{head}a_total{{x=\"\\q\"}} 3\n"),
            format!("{head}a_total{{x=\"1\",}} 3\n"),
            format!("{head}a_total{{x=\"1\",x=\"2\"}} 3\n"),
            format!("{head}a_total 1\na_total 2\n"),
            format!("{head}a_total three\n"),
            format!("{head}\n"),
            "# HELP a A.\n# TYPE a counter\n".to_owned(),
            "# HELP a_total A.\n# TYPE a_total gauge\n".to_owned(),
            "# TYPE a gauge\na 1\n".to_owned(),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
