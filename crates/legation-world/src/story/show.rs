//! Figures as people read them, and tables.

use std::time::Duration;

/// `240,871`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// `212 MiB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}

/// `0.2 s`, `12 s`, `7 ms`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 0.01 => format!("{:.1} ms", s * 1000.0),
        s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s => format!("{:.0} min {:.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

/// Time of day in UTC with so many digits of a second, from microseconds since 1970.
pub fn clock(micros: u64, digits: usize) -> String {
    let t = Duration::from_micros(micros);
    let day = t.as_secs() % 86_400;
    let whole = format!("{:02}:{:02}:{:02}", day / 3600, day / 60 % 60, day % 60);
    if digits == 0 {
        return whole;
    }
    let fraction = format!("{:06}", t.subsec_micros());
    format!("{whole}.{}", &fraction[..digits.min(6)])
}

/// Rows as columns, two spaces between; a column whose head ends with `>` is set right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let right: Vec<bool> = head.iter().map(|h| h.ends_with('>')).collect();
    let head: Vec<String> = head
        .iter()
        .map(|h| h.trim_end_matches('>').to_owned())
        .collect();
    let all: Vec<&[String]> = std::iter::once(head.as_slice())
        .chain(rows.iter().map(Vec::as_slice))
        .collect();
    let width = |i: usize| {
        all.iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut out = String::from("   ");
        for (i, cell) in cells.iter().enumerate() {
            let gap = " ".repeat(widths[i] - cell.chars().count());
            let (before, after) = if right[i] {
                (gap, String::new())
            } else {
                (String::new(), gap)
            };
            out.push_str(&format!("{before}{cell}{after}  "));
        }
        out.trim_end().to_owned()
    };
    all.into_iter().map(line).collect()
}
