#!/bin/sh
# Makes caller.wav, the voice of the demo's caller: 8 kHz mono mu-law.
# Needs espeak-ng and sox (Debian: apt-get install espeak-ng sox). The same versions give the same speech;
# sox dithers, so that bytes may differ in the noise.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { # name, speed, text
    espeak-ng -v en-gb -s "$2" -w "$work/$1.raw.wav" "$3"
    # Telephone band, telephone level; what espeak pads is cut off.
    sox -R "$work/$1.raw.wav" -r 8000 -c 1 -b 16 "$work/$1.wav" \
        silence 1 0.02 0.5% reverse silence 1 0.02 0.5% reverse \
        highpass 200 lowpass 3600 norm -9
}

pause() { # name, seconds
    sox -R -n -r 8000 -c 1 -b 16 "$work/$1.wav" trim 0 "$2"
}

say one 165 "Hello, is this the bicycle workshop?"
say two 165 "Are you open on Saturday?"
say three 175 "Wait, Friday would be better for me."
pause before 0.6
# Long enough for the answer to the first question to be heard whole.
pause answer 5.6
# Shorter than the answer to the second question: the third one overlaps it.
pause overlap 2.4
pause after 0.8

sox -R "$work/before.wav" "$work/one.wav" "$work/answer.wav" "$work/two.wav" \
    "$work/overlap.wav" "$work/three.wav" "$work/after.wav" "$work/speech.wav"
length=$(soxi -D "$work/speech.wav")
# Line noise at about -55 dB, under the whole call.
sox -R -n -r 8000 -c 1 -b 16 "$work/noise.wav" synth "$length" brownnoise vol 0.006
sox -R -m -v 1 "$work/speech.wav" -v 1 "$work/noise.wav" -r 8000 -c 1 -e u-law caller.wav
soxi caller.wav
