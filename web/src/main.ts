import { mount } from "svelte";
import "./styles/fonts.css";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/prose.css";
import App from "./components/App.svelte";
import { Chat } from "./state/chat.svelte";

const chat = await Chat.open();
mount(App, { target: document.getElementById("page") as HTMLElement, props: { chat } });
