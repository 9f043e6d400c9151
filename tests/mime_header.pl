# Decode header fields as Perl does (Encode::MIME::Header): a list of values as JSON on standard input, and on standard output.
use strict; use warnings; use Encode; use JSON::PP;
local $/;
my @decoded = map { decode("MIME-Header", encode("UTF-8", $_)) } @{ decode_json(<STDIN>) };
print encode_json(\@decoded);
