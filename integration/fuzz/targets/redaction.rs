//! Command lines without their secrets: whatever stands around a password hash, the hash is not shown.

use acctguard::model::account::arguments;
use acctguard::model::redact;

/// crypt(5)'s: SHA-512, yescrypt, bcrypt.
const HASHES: [&str; 3] = [
    "$6$Jq3vXf0aWb1cYd2e$Zk8Q1mV7nB3xC5zL9pR2tF4gH6jK0sD8fG1hJ3kL5zX7cV9bN1mQ3wE5rT7yU9iO1pA3sD5fG7hJ9kL1zX3cV5",
    "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
    "$2b$12$KIXQJb8Zr0Y5zG1uQe7ZYeW3mJ9vX2cL4nB6tR8yU0iO2pA4sD6fG",
];

/// Words are apart by NUL. The first byte chooses a hash, the second the word before which it is put.
pub fn check(data: &[u8]) {
    let [which, at, rest @ ..] = data else { return };
    let words = rest.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut argv: Vec<String> = words.collect();
    let shown = redact::argv(&argv);
    assert_eq!(shown.len(), argv.len());
    let hash = HASHES[usize::from(*which) % HASHES.len()];
    let secret = &hash[hash.len() - 20..];
    // part of a hash alone is none
    if argv.iter().any(|word| word.contains(secret)) {
        return;
    }
    argv.insert(usize::from(*at) % (argv.len() + 1), hash.to_owned());
    let shown = redact::argv(&argv);
    assert_eq!(shown.len(), argv.len());
    assert!(!shown.iter().any(|word| word.contains(secret)), "{shown:?}");
    let told = serde_json::to_string(&arguments::from_arguments(&argv)).expect("changes have a JSON form");
    assert!(!told.contains(secret), "{told}");
}
