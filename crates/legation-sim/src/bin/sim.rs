fn main() {
    let from: u64 = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(0);
    let to: u64 = std::env::args()
        .nth(2)
        .and_then(|a| a.parse().ok())
        .unwrap_or(from + 1);
    let mut all = legation_sim::world::Counts::default();
    let began = std::time::Instant::now();
    for seed in from..to {
        let p = legation_sim::Profile::storm(seed);
        let o = legation_sim::run(seed, &p, None, to == from + 1);
        if let Some(v) = &o.violation {
            println!("seed {seed}: {v}");
        }
        all += o.counts;
    }
    println!("{all}\n{:?}", began.elapsed());
}
