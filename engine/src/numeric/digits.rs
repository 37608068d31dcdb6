//! Numbers in writing.

/// A count with its digits in groups of three: `5,770,496`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups_of_three() {
        let written = [0, 999, 1000, 5_770_496, u64::MAX].map(count);
        assert_eq!(written, ["0", "999", "1,000", "5,770,496", "18,446,744,073,709,551,615"]);
    }
}
