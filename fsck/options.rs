//! The arguments that fsck(8) passes on. Letters may be joined; `-C` takes a number beside it or behind it.

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressTo {
    Nowhere,
    Terminal,
    Descriptor(i32),
}

/// What may be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    Nothing,
    /// What loses nothing.
    Safe,
    Everything,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// None: only the version was asked for.
    pub image: Option<String>,
    /// Read all file data as well.
    pub contents: bool,
    pub repair: Repair,
    /// Repair the image of a pair without the pair.
    pub force: bool,
    pub progress: ProgressTo,
    pub no_title: bool,
    pub json: bool,
}

pub fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        image: None,
        contents: false,
        repair: Repair::Nothing,
        force: false,
        progress: ProgressTo::Nowhere,
        no_title: false,
        json: false,
    };
    let (mut version, mut never, mut only_names) = (false, false, false);
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let letters = match word.strip_prefix('-') {
            Some("-") if !only_names => {
                only_names = true;
                continue;
            }
            Some("-force") if !only_names => {
                options.force = true;
                continue;
            }
            Some("-json") if !only_names => {
                options.json = true;
                continue;
            }
            Some(letters) if !only_names && !letters.is_empty() => letters,
            _ if options.image.is_none() => {
                options.image = Some(word.clone());
                continue;
            }
            _ => return Err(format!("one image at a time, not also {word}")),
        };
        let mut left = letters.chars();
        while let Some(letter) = left.next() {
            match letter {
                'a' | 'p' => options.repair = options.repair.max(Repair::Safe),
                'y' => options.repair = Repair::Everything,
                'n' => never = true,
                'f' => options.contents = true,
                'M' | 'r' => {}
                'T' => options.no_title = true,
                'V' => version = true,
                'C' => {
                    let joined: String = left.by_ref().collect();
                    let number = match joined.is_empty() {
                        true => words.next_if(|next| next.parse::<i32>().is_ok()).cloned(),
                        false => Some(joined),
                    };
                    options.progress = descriptor(number)?;
                }
                _ => return Err(format!("there is no option {word}")),
            }
        }
    }
    if never {
        options.repair = Repair::Nothing;
    }
    if version {
        options.image = None;
        options.no_title = false;
    } else if options.image.is_none() {
        return Err("which image?".to_string());
    }
    Ok(options)
}

fn descriptor(number: Option<String>) -> Result<ProgressTo, String> {
    match number.as_deref().map(str::parse::<i32>) {
        None | Some(Ok(0)) => Ok(ProgressTo::Terminal),
        Some(Ok(number)) if number > 0 => Ok(ProgressTo::Descriptor(number)),
        Some(_) => Err(format!("-C {}: no descriptor", number.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_calls_of_fsck_are_understood() {
        let options = parsed("-a -C5 -T img").unwrap();
        assert!(options.repair == Repair::Safe && options.no_title && !options.contents);
        assert_eq!((options.progress, options.image.as_deref()), (ProgressTo::Descriptor(5), Some("img")));
        assert_eq!(parsed("-fyC0 img").unwrap().progress, ProgressTo::Terminal);
        assert_eq!(parsed("-C img").unwrap().progress, ProgressTo::Terminal);
        assert_eq!(parsed("-C 7 img").unwrap().progress, ProgressTo::Descriptor(7));
        assert_eq!(parsed("-- -x").unwrap().image.as_deref(), Some("-x"));
        assert_eq!(parsed("-V").unwrap().image, None);
        assert_eq!(parsed("-py img").unwrap().repair, Repair::Everything);
        assert_eq!(parsed("-yn img").unwrap().repair, Repair::Nothing);
        assert_eq!(parsed("-n -p img").unwrap().repair, Repair::Nothing);
        let long = parsed("--json --force img").unwrap();
        assert!(long.json && long.force);
        for wrong in ["", "-z img", "a b", "-Cx img", "-C-3 img", "--what img", "-- --force img"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
