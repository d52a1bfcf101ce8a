// Reads the package's data with nothing but the standard library.
use std::fs;

fn main() {
    let mut names: Vec<_> = fs::read_dir("/package").unwrap().map(|entry| entry.unwrap()).collect();
    names.sort_by_key(|entry| entry.file_name());
    for entry in names {
        let kind = entry.file_type().unwrap();
        let name = entry.file_name().into_string().unwrap();
        if kind.is_dir() {
            println!("{} dir", name);
        } else {
            println!("{} {}", name, entry.metadata().unwrap().len());
        }
    }
    println!("{}", fs::read_to_string("/package/sub/b.txt").unwrap());
    println!("write refused {}", fs::write("/package/new", b"x").is_err());
}
