// django-otp-webauthn's script says when the passkey is stored; the page goes on to the recovery codes.
document.addEventListener("otp_webauthn.register_complete", () => {
  location.assign(document.querySelector("[data-then]").dataset.then);
});
