//! Shamir's secret sharing over GF(2^8), polynomial 0x11b, without tables or secret branches (spec/sealing.md §8).

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::FormatError;

/// One share of a 32-byte secret: the point `index` of the polynomials.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Share {
    /// The point, 1 to 255.
    pub index: u8,
    /// The value there.
    pub bytes: [u8; 32],
}

/// Splits `secret` into `n` shares of which any `k` rebuild it. `coefficients` are (k-1)·32 uniform bytes.
///
/// # Errors
/// `Malformed` unless 1 ≤ k ≤ n and the coefficients have the right length.
pub fn split(
    secret: &[u8; 32],
    k: u8,
    n: u8,
    coefficients: &[u8],
) -> Result<Vec<Share>, FormatError> {
    let why = |why| FormatError::malformed("secret sharing", why);
    if k == 0 || k > n {
        return Err(why(
            "it needs at least one share and no more than are dealt",
        ));
    }
    if coefficients.len() != usize::from(k - 1) * 32 {
        return Err(why(
            "it takes 32 random bytes for each share needed but one",
        ));
    }
    let share = |index| {
        // Horner's rule from the highest coefficient down to the secret.
        let mut bytes = [0; 32];
        for row in coefficients
            .chunks_exact(32)
            .rev()
            .chain([secret.as_slice()])
        {
            for (value, coefficient) in bytes.iter_mut().zip(row) {
                *value = mul(*value, index) ^ coefficient;
            }
        }
        Share { index, bytes }
    };
    Ok((1..=n).map(share).collect())
}

/// Interpolates at zero. With fewer than `k` shares the result is unrelated to the secret: check what it opens.
///
/// # Errors
/// `Malformed` for no share, index 0, or an index twice.
pub fn combine(shares: &[Share]) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    let why = |why| FormatError::malformed("secret sharing", why);
    if shares.is_empty() || shares.iter().any(|s| s.index == 0) {
        return Err(why("no share, or a share without a number"));
    }
    let mut secret = Zeroizing::new([0; 32]);
    for (i, share) in shares.iter().enumerate() {
        let mut weight = 1;
        for (j, other) in shares.iter().enumerate() {
            if i == j {
                continue;
            }
            if share.index == other.index {
                return Err(why("one share was given twice"));
            }
            weight = mul(weight, mul(other.index, inverse(other.index ^ share.index)));
        }
        for (value, y) in secret.iter_mut().zip(&share.bytes) {
            *value ^= mul(*y, weight);
        }
    }
    Ok(secret)
}

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1, in constant time.
fn mul(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= a & mask(b >> bit);
        a = a << 1 ^ 0x1b & mask(a >> 7);
    }
    product
}

/// All ones if the lowest bit is set, else zero. The barrier keeps the optimizer from making it a branch.
fn mask(v: u8) -> u8 {
    0u8.wrapping_sub(std::hint::black_box(v & 1))
}

/// x^254, the inverse of every x but zero.
fn inverse(x: u8) -> u8 {
    let mut power = x;
    let mut product = 1;
    for _ in 0..7 {
        power = mul(power, power);
        product = mul(product, power);
    }
    product
}

#[cfg(test)]
mod tests;
