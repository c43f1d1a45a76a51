# Reads packaging/contents. Sourced by packaging/build and by integration/packages; needs $repository and, for what is built, $work.
# shellcheck shell=bash

# The entries for one format, each "mode source destination marks".
entries() {
    local format=$1 mode source destination marks
    while read -r mode source destination marks; do
        case $mode in
        '' | '#'*) continue ;;
        esac
        case " $marks " in
        *' deb '* | *' rpm '*) [[ " $marks " == *" $format "* ]] || continue ;;
        esac
        printf '%s %s %s %s\n' "$mode" "$source" "$destination" "$marks"
    done <"$repository/packaging/contents"
}

# Destinations that have a mark.
marked() {
    local mode source destination marks
    while read -r mode source destination marks; do
        [[ " $marks " != *" $1 "* ]] || printf '%s\n' "$destination"
    done < <(entries "$2")
}

# Files of a source, which may be a pattern.
files_of() {
    local base=$repository file found=0
    case $1 in
    program/* | made/*) base=$work ;;
    esac
    for file in "$base"/$1; do
        [[ -f $file ]] || continue
        printf '%s\n' "$file"
        found=1
    done
    ((found)) || fail "packaging/contents: no file is named $1"
}

# Lays out what a package of that format installs.
stage() {
    local root=$1 mode source destination marks file files
    mkdir -p "$root"
    while read -r mode source destination marks; do
        case $mode in
        link)
            mkdir -p "$root${destination%/*}"
            ln -s "$source" "$root$destination"
            ;;
        folder) install -d -m "$source" "$root$destination" ;;
        *)
            files=$(files_of "$source")
            while read -r file; do
                [[ $destination == */ ]] || { install -D -m "$mode" "$file" "$root$destination" && continue; }
                install -D -m "$mode" "$file" "$root$destination${file##*/}"
            done <<<"$files"
            ;;
        esac
    done < <(entries "$2")
}
