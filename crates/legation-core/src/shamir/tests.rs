use proptest::prelude::*;

use super::*;

fn share(index: u8, bytes: &[u8]) -> Share {
    let mut full = [0; 32];
    full[..bytes.len()].copy_from_slice(bytes);
    Share { index, bytes: full }
}

#[test]
fn multiplication_is_that_of_aes() {
    // FIPS 197, sections 4.2 and 4.2.1.
    assert_eq!(mul(0x57, 0x83), 0xc1);
    assert_eq!(mul(0x57, 0x13), 0xfe);
    for x in 1..=255 {
        assert_eq!(mul(x, inverse(x)), 1);
        assert_eq!(mul(x, 1), x);
        assert_eq!(mul(x, 0), 0);
    }
}

#[test]
fn published_vector_of_threshold_two() {
    // draft-mcgrew-tss-03, section 9: the same field, share number first.
    let shares = [
        share(1, &[0xb9, 0xfa, 0x07, 0xe1, 0x85]),
        share(2, &[0xf5, 0x40, 0x9b, 0x45, 0x11]),
    ];
    assert_eq!(
        &combine(&shares).unwrap()[..6],
        [0x74, 0x65, 0x73, 0x74, 0, 0]
    );
    let mut secret = [0; 32];
    secret[..5].copy_from_slice(&[0x74, 0x65, 0x73, 0x74, 0]);
    let mut coefficients = [0; 32];
    coefficients[..5].copy_from_slice(&[0xcd, 0x9f, 0x74, 0x95, 0x85]);
    let dealt = split(&secret, 2, 2, &coefficients).unwrap();
    assert_eq!(dealt[0].bytes, shares[0].bytes);
    assert_eq!(dealt[1].bytes, shares[1].bytes);
}

#[test]
fn published_vectors_of_threshold_three() {
    // codahale/shamir, GF256Test: interpolation at zero over the same field.
    let at_zero = |points: [(u8, u8); 3]| combine(&points.map(|(x, y)| share(x, &[y]))).unwrap()[0];
    assert_eq!(at_zero([(1, 1), (2, 2), (3, 3)]), 0);
    assert_eq!(at_zero([(1, 80), (2, 90), (3, 20)]), 30);
    assert_eq!(at_zero([(1, 43), (2, 22), (3, 86)]), 107);
    // There too: 1 + 2x^2 + 3x^3 at 2.
    let mut rows = [0; 96];
    (rows[32], rows[64]) = (2, 3);
    let mut one = [0; 32];
    one[0] = 1;
    assert_eq!(split(&one, 4, 4, &rows).unwrap()[1].bytes[0], 17);
}

#[test]
fn agrees_with_tables_of_the_generator_three() {
    // A second implementation in another manner: logarithms to the base 3.
    let (mut exp, mut log) = ([0u8; 255], [0usize; 256]);
    let mut x = 1u16;
    for (i, e) in exp.iter_mut().enumerate() {
        *e = x as u8;
        log[x as usize] = i;
        x ^= x << 1;
        if x & 0x100 != 0 {
            x ^= 0x11b;
        }
    }
    for a in 0..=255u8 {
        for b in 0..=255u8 {
            let by_table = if a == 0 || b == 0 {
                0
            } else {
                exp[(log[usize::from(a)] + log[usize::from(b)]) % 255]
            };
            assert_eq!(mul(a, b), by_table);
        }
    }
}

#[test]
fn one_share_less_says_nothing() {
    // With k-1 shares every secret is possible: for each there is exactly one polynomial through both.
    let dealt = split(&[42; 32], 3, 5, &[9; 64]).unwrap();
    let known = [dealt[0].clone(), dealt[3].clone()];
    let mut third: Vec<u8> = (0..=255u8)
        .map(|guess| {
            // The value at 5 that makes the secret `guess`: the points 0, 1 and 4 fix it.
            let at = |x: u8, points: [(u8, u8); 3]| {
                points.iter().fold(0, |sum, (xi, yi)| {
                    let weight = points
                        .iter()
                        .filter(|(xj, _)| xj != xi)
                        .fold(1, |w, (xj, _)| mul(w, mul(x ^ xj, inverse(xi ^ xj))));
                    sum ^ mul(*yi, weight)
                })
            };
            at(
                5,
                [(0, guess), (1, known[0].bytes[0]), (4, known[1].bytes[0])],
            )
        })
        .collect();
    third.sort_unstable();
    assert_eq!(third, (0..=255).collect::<Vec<u8>>());
    assert_ne!(*combine(&known).unwrap(), [42; 32]);
}

#[test]
fn impossible_requests_are_refused() {
    assert!(split(&[0; 32], 0, 5, &[]).is_err());
    assert!(split(&[0; 32], 3, 2, &[0; 64]).is_err());
    assert!(split(&[0; 32], 3, 5, &[0; 63]).is_err());
    assert!(split(&[0; 32], 255, 255, &[1; 254 * 32]).is_ok());
    assert!(combine(&[]).is_err());
    assert!(combine(&[share(0, &[1])]).is_err());
    assert!(combine(&[share(1, &[1]), share(1, &[1])]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_k_of_n_rebuild(secret: [u8; 32], k in 1u8..8, more in 0u8..8, seed: [u8; 32], order in any::<u64>()) {
        let n = k + more;
        let mut coefficients = vec![0; usize::from(k - 1) * 32];
        blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut coefficients);
        let mut shares = split(&secret, k, n, &coefficients).unwrap();
        let turn = (order % u64::from(n)) as usize;
        shares.rotate_left(turn);
        prop_assert_eq!(*combine(&shares[..usize::from(k)]).unwrap(), secret);
        prop_assert_eq!(*combine(&shares).unwrap(), secret);
    }
}
